"""Finished sweeps as tables and pages."""

from alignray.report.across import compare_across
from alignray.report.page import (
    BASIS,
    difference_text,
    holdout_text,
    odds_text,
    short,
    validation_text,
    write_report,
)
from alignray.report.paired import paired_summary, paired_table, write_paired
from alignray.report.tables import (
    BASELINE,
    comparison_table,
    odds,
    pareto_table,
    trials_table,
    verdicts,
    write_comparison,
)

__all__ = [
    "BASELINE",
    "BASIS",
    "compare_across",
    "comparison_table",
    "difference_text",
    "holdout_text",
    "odds",
    "odds_text",
    "paired_summary",
    "paired_table",
    "pareto_table",
    "short",
    "trials_table",
    "validation_text",
    "verdicts",
    "write_comparison",
    "write_paired",
    "write_report",
]
