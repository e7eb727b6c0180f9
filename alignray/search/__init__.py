"""What is searched, and the record of it: spaces, samplers and Optuna studies."""

from alignray.search.config import SearchConfig
from alignray.search.course import Course, Exploit, course_of
from alignray.search.pareto import on_front
from alignray.search.samplers import SAMPLERS
from alignray.search.space import Choice, Distribution, Float, Int, Space
from alignray.search.studies import FEWEST_FOR_IMPORTANCE, ArmStudy, open_studies
from alignray.search.trials import Proposal, TrialRow, trial_key

__all__ = [
    "FEWEST_FOR_IMPORTANCE",
    "SAMPLERS",
    "ArmStudy",
    "Choice",
    "Course",
    "Distribution",
    "Exploit",
    "Float",
    "Int",
    "Proposal",
    "SearchConfig",
    "Space",
    "TrialRow",
    "course_of",
    "on_front",
    "open_studies",
    "trial_key",
]
