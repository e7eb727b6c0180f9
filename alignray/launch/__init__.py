"""A whole sweep, from its configuration to its comparison."""

from alignray.launch.sweep import SweepResult, open_result, resume_sweep, run_sweep, write_page
from alignray.launch.templates import find_sweep, list_templates
from alignray.launch.tracked import Interrupted

__all__ = [
    "Interrupted",
    "SweepResult",
    "find_sweep",
    "list_templates",
    "open_result",
    "resume_sweep",
    "run_sweep",
    "write_page",
]
