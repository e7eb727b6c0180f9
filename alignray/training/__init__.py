"""Training: members, epochs, optimiser."""

from alignray.training.config import OPTIMISERS, AnnealingConfig, OptimiserConfig, TrainingConfig
from alignray.training.members import Members
from alignray.training.trainer import EpochStats, Trainer, require_finite

__all__ = [
    "OPTIMISERS",
    "AnnealingConfig",
    "EpochStats",
    "Members",
    "OptimiserConfig",
    "Trainer",
    "TrainingConfig",
    "require_finite",
]
