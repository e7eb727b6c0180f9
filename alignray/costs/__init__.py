"""Convex costs C(x): sums of terms, each with a strength."""

from alignray.costs.cost import Cost
from alignray.costs.custom import CvxpyTerm
from alignray.costs.factors import Factors
from alignray.costs.term import CvxpyDecision, Decision, SeparableTerm, Strength, Term
from alignray.costs.terms import TERMS, Box, FactorNeutral, FactorPenalty, Quadratic, SoftL1, SumNeutral, Turnover

__all__ = [
    "TERMS",
    "Box",
    "Cost",
    "CvxpyDecision",
    "CvxpyTerm",
    "Decision",
    "FactorNeutral",
    "FactorPenalty",
    "Factors",
    "Quadratic",
    "SeparableTerm",
    "SoftL1",
    "Strength",
    "SumNeutral",
    "Term",
    "Turnover",
]
