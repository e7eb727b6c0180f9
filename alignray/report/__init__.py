"""Finished sweeps as tables and pages."""

from alignray.report.page import interval_text, short, write_report
from alignray.report.paired import paired_summary, paired_table, write_paired
from alignray.report.tables import comparison_table, trials_table, write_comparison

__all__ = [
    "comparison_table",
    "interval_text",
    "paired_summary",
    "paired_table",
    "short",
    "trials_table",
    "write_comparison",
    "write_paired",
    "write_report",
]
