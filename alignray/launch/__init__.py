"""A whole sweep, from its configuration to its comparison."""

from alignray.launch.audit import Audit, Line, audit
from alignray.launch.from_run import sweep_of_run
from alignray.launch.source import sweep_source
from alignray.launch.sweep import SweepResult, compare_sweeps, open_result, resume_sweep, run_sweep, write_page
from alignray.launch.templates import find_sweep, list_templates, new_template, write_template
from alignray.launch.tracked import Interrupted

__all__ = [
    "Audit",
    "Interrupted",
    "Line",
    "SweepResult",
    "audit",
    "compare_sweeps",
    "find_sweep",
    "list_templates",
    "new_template",
    "open_result",
    "resume_sweep",
    "run_sweep",
    "sweep_of_run",
    "sweep_source",
    "write_page",
    "write_template",
]
