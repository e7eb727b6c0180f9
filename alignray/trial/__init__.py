"""One configuration → a trained, scored model."""

from alignray.trial.config import SolverConfig, SplitConfig, TrialConfig
from alignray.trial.demand import Demand, measure
from alignray.trial.reporter import NullReporter, RecordingReporter, Reporter
from alignray.trial.scoring import METRICS, Scores, ScoringConfig, score
from alignray.trial.trial import Trial, build_layer, run_trial
from alignray.trial.unscored import Unscored

__all__ = [
    "METRICS",
    "Demand",
    "NullReporter",
    "RecordingReporter",
    "Reporter",
    "Scores",
    "ScoringConfig",
    "SolverConfig",
    "SplitConfig",
    "Trial",
    "TrialConfig",
    "Unscored",
    "build_layer",
    "measure",
    "run_trial",
    "score",
]
