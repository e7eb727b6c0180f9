"""A search over trials on a Ray cluster, at equal budgets for every arm."""

from alignray.sweep.cluster import close_token, ray_cluster, require_gpus
from alignray.sweep.config import (
    DataConfig,
    HoldoutConfig,
    ResourceConfig,
    SweepConfig,
    SyntheticConfig,
)
from alignray.sweep.environment import write_environment
from alignray.sweep.estimation import Estimate, estimate
from alignray.sweep.events import COURSE, config_of_tags, final_key, sweep_start
from alignray.sweep.finals import seal, train_finals
from alignray.sweep.log import read_log
from alignray.sweep.manifest import Manifest, sweep_folder
from alignray.sweep.placement import Placed, place
from alignray.sweep.progress import Progress, Silent, Snapshot
from alignray.sweep.results import FinalResult, final_files, generation, interval, load_finals
from alignray.sweep.scheduling import SchedulerConfig
from alignray.sweep.search import JOURNAL, run_search, settle_lag, sweep_studies
from alignray.sweep.warm import Past, past_of

__all__ = [
    "COURSE",
    "JOURNAL",
    "DataConfig",
    "Estimate",
    "FinalResult",
    "HoldoutConfig",
    "Manifest",
    "Past",
    "Placed",
    "Progress",
    "ResourceConfig",
    "SchedulerConfig",
    "Silent",
    "Snapshot",
    "SweepConfig",
    "SyntheticConfig",
    "close_token",
    "config_of_tags",
    "estimate",
    "final_files",
    "final_key",
    "generation",
    "interval",
    "load_finals",
    "past_of",
    "place",
    "ray_cluster",
    "read_log",
    "require_gpus",
    "run_search",
    "seal",
    "settle_lag",
    "sweep_folder",
    "sweep_start",
    "sweep_studies",
    "train_finals",
    "write_environment",
]
