"""Training: members, epochs, optimiser."""

from alignray.training.averaging import AveragingConfig
from alignray.training.config import AnnealingConfig, TrainingConfig
from alignray.training.members import Members
from alignray.training.optimiser import OPTIMISERS, OptimiserConfig
from alignray.training.schedule import SCHEDULES, ScheduleConfig
from alignray.training.trainer import EpochStats, Trainer
from alignray.training.workers import ALONE, Workers

__all__ = [
    "ALONE",
    "OPTIMISERS",
    "SCHEDULES",
    "AnnealingConfig",
    "AveragingConfig",
    "EpochStats",
    "Members",
    "OptimiserConfig",
    "ScheduleConfig",
    "Trainer",
    "TrainingConfig",
    "Workers",
]
