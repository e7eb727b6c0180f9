"""Training: members, epochs, optimiser."""

from alignray.training.config import OPTIMISERS, AnnealingConfig, OptimiserConfig, TrainingConfig
from alignray.training.members import Members
from alignray.training.trainer import EpochStats, Trainer, not_finite, require_finite, require_none
from alignray.training.workers import ALONE, Workers

__all__ = [
    "ALONE",
    "OPTIMISERS",
    "AnnealingConfig",
    "EpochStats",
    "Members",
    "OptimiserConfig",
    "Trainer",
    "TrainingConfig",
    "Workers",
    "not_finite",
    "require_finite",
    "require_none",
]
