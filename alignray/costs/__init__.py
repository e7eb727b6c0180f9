"""Convex costs C(x): sums of terms, each with a strength."""

from alignray.costs.cost import Cost
from alignray.costs.terms import TERMS, FactorPenalty, Quadratic, SeparableTerm, SoftL1, Strength, Term

__all__ = ["TERMS", "Cost", "FactorPenalty", "Quadratic", "SeparableTerm", "SoftL1", "Strength", "Term"]
