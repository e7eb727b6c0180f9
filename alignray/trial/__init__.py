"""One configuration → a trained, scored model."""

from alignray.trial.calibration import Calibration, calibrate
from alignray.trial.config import Change, SolverConfig, SplitConfig, TrialConfig
from alignray.trial.demand import Demand, measure
from alignray.trial.reporter import NullReporter, RecordingReporter, Reporter
from alignray.trial.scoring import METRICS, Scores, ScoringConfig, score
from alignray.trial.seconds import PARTS, seconds_by_part
from alignray.trial.trial import Trial, build_layer, run_trial
from alignray.trial.unscored import Unscored

__all__ = [
    "METRICS",
    "PARTS",
    "Calibration",
    "Change",
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
    "calibrate",
    "measure",
    "run_trial",
    "score",
    "seconds_by_part",
]
