"""What training minimises. One objective in a comparison is an arm."""

from alignray.objectives.arms import OBJECTIVES, Aligned, FenchelYoung, Misaligned, Mse, objective, regret
from alignray.objectives.base import Objective
from alignray.objectives.decision_loss import DecisionLoss
from alignray.objectives.sobolev import Sobolev

__all__ = [
    "OBJECTIVES",
    "Aligned",
    "DecisionLoss",
    "FenchelYoung",
    "Misaligned",
    "Mse",
    "Objective",
    "Sobolev",
    "objective",
    "regret",
]
