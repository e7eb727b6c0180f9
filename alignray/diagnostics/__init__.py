"""Whether a model learns through its solver: its gradients compared, its solves aged, its dead rows counted."""

from alignray.diagnostics.dead_rows import DeadZone, dead_zone
from alignray.diagnostics.diagnosis import Diagnosis, DiagnosticsConfig, diagnose
from alignray.diagnostics.fidelity import Fidelity, gradient_fidelity
from alignray.diagnostics.gradients import Gap, angle, relative_error
from alignray.diagnostics.staleness import Reuse, reuse, reuse_along

__all__ = [
    "DeadZone",
    "Diagnosis",
    "DiagnosticsConfig",
    "Fidelity",
    "Gap",
    "Reuse",
    "angle",
    "dead_zone",
    "diagnose",
    "gradient_fidelity",
    "relative_error",
    "reuse",
    "reuse_along",
]
