"""`alignray data synthetic`: the files are those that the library writes, and a sweep reads them."""

from __future__ import annotations

from pathlib import Path

import pytest

import alignray as ar
from alignray.cli.main import status

WRITE = ["data", "synthetic", "made", "--eras", "40", "--rows", "20", "--features", "6", "--seed", "5"]


def test_what_is_written_is_what_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(WRITE) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["features.json", "live.parquet", "train.parquet", "validation.parquet"]
    assert lines == [f"made/{name}  {(tmp_path / 'made' / name).stat().st_size} bytes" for name in names]
    panel = ar.datasets.numerai("made", "all", part=("train", "validation"))
    assert panel.digest == ar.datasets.synthetic(num_eras=40, rows=20, num_features=6, seed=5).digest


def test_a_sweep_on_it_says_its_folds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(WRITE) == 0
    settings = ["data.source=made", "data.feature_set=all", "holdout.eras=3", "trial.split.scheme=blocked"]
    assert status(["run", "quickstart", "--dry-run", *(part for text in settings for part in ("--set", text))]) == 0
    printed = capsys.readouterr().out
    assert "made: 27 eras" in printed
    assert "2 blocked; the last trains on 6 eras, validates on 10" in printed
