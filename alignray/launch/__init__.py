"""A whole sweep, from its configuration to its comparison."""

from alignray.launch.sweep import (
    Interrupted,
    SweepResult,
    compare_sweeps,
    open_result,
    resume_sweep,
    run_sweep,
    write_page,
)
from alignray.launch.templates import find_sweep, list_templates

__all__ = [
    "Interrupted",
    "SweepResult",
    "compare_sweeps",
    "find_sweep",
    "list_templates",
    "open_result",
    "resume_sweep",
    "run_sweep",
    "write_page",
]
