"""Finished sweeps as tables and pages."""

from alignray.report.page import write_report
from alignray.report.tables import comparison_table, trials_table, write_comparison

__all__ = ["comparison_table", "trials_table", "write_comparison", "write_report"]
