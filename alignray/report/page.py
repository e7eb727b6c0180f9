"""The report: one page that stands alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from alignray.sweep import FinalResult, Manifest


def write_report(
    manifest: Manifest, finals: Sequence[FinalResult], trials: pd.DataFrame, comparison: pd.DataFrame, folder: Path
) -> Path:
    """Write ``report.html``."""
    path = folder / "report.html"
    path.write_text(comparison.to_html())
    return path
