"""What is searched, and the record of it: spaces, samplers and Optuna studies."""

from alignray.search.config import SearchConfig
from alignray.search.pareto import on_front
from alignray.search.samplers import SAMPLERS
from alignray.search.space import Choice, Distribution, Float, Int, Space
from alignray.search.studies import FEWEST_FOR_IMPORTANCE, ArmStudy, Proposal, TrialRow, open_studies, trial_key

__all__ = [
    "FEWEST_FOR_IMPORTANCE",
    "SAMPLERS",
    "ArmStudy",
    "Choice",
    "Distribution",
    "Float",
    "Int",
    "Proposal",
    "SearchConfig",
    "Space",
    "TrialRow",
    "on_front",
    "open_studies",
    "trial_key",
]
