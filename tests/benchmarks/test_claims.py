"""The benchmark of the claims runs, and writes what it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_quick_size_runs_and_writes_a_report_with_its_figures(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.claims", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    for part in "abcde":
        assert f"### ({part})" in done.stdout
    assert "Plotly.newPlot" in (tmp_path / "claims.html").read_text()
    assert len(list(tmp_path.glob("*.png"))) >= 5
