"""The sweep that the benchmark of the report makes up is one that `alignray compare` takes."""

from __future__ import annotations

from alignray.launch import open_result, write_page
from benchmarks.report import make_sweep


def test_the_made_up_sweep_has_a_page(tmp_path):
    make_sweep(tmp_path / "large", trials=8, epochs=4)
    result = open_result("large", storage=tmp_path)
    assert result.trials.groupby("arm").size().tolist() == [2, 2, 2, 2]
    assert write_page(result, tmp_path / "page.html").stat().st_size < 5_000_000
