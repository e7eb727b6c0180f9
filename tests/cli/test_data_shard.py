"""``alignray data shard``: a file becomes a folder of shards, or nothing at all."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from alignray.cli import passing
from alignray.cli.main import status
from alignray.data import Panel, open_shards
from alignray.data.shards import read_manifest, writing


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    columns = {"date": np.repeat([f"{era:04d}" for era in range(7)], 5), "y": rng.random(35), "beta": rng.random(35)}
    frame = pd.DataFrame({**columns, "x_a": rng.integers(0, 5, 35), "name": [f"n{row}" for row in range(35)]})
    frame.to_parquet("data.parquet")
    return tmp_path / "data.parquet"


COLUMNS = ["--era", "date", "--target", "y", "--features", "x_*", "--factors", "beta", "--id", "name"]


def test_a_column_that_is_called_id_and_names_no_row_is_left_out(file: Path) -> None:
    frame = pd.read_parquet(file).assign(id="same")
    frame.to_parquet(file)
    columns = COLUMNS[:-2]
    assert status(["data", "check", "data.parquet", *columns]) == 1
    assert status(["data", "check", "data.parquet", *columns, "--id", ""]) == 0
    assert status(["data", "shard", "data.parquet", "shards", *columns, "--id", ""]) == 0
    assert open_shards("shards").schema.id is None


def test_a_file_becomes_shards(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passing, "_SECONDS_A_LINE", 0.0)
    assert status(["data", "shard", "data.parquet", "shards", "--eras-per-shard", "3", *COLUMNS]) == 0
    printed = capsys.readouterr().out
    expected = Panel.from_parquet(file, era="date", target="y", features="x_*", factors="beta", id="name")
    manifest = read_manifest("shards")
    assert open_shards("shards").digest == manifest.digest == expected.digest
    assert [len(entry.eras) for entry in manifest.entries] == [3, 3, 1]
    for part in (
        "3 eras, 15 rows, ",
        "7 eras, 35 rows, ",
        "eras      7 in 3 files\n",
        "rows      35\n",
        f"digest    {expected.digest}\n",
        " MB/s",
    ):
        assert part in printed


def test_a_folder_that_holds_shards_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["data", "shard", "data.parquet", "shards", *COLUMNS]
    assert status(arguments) == 0
    before = read_manifest("shards")
    capsys.readouterr()
    assert status(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("alignray: ")
    assert "shards" in line
    assert "choose another folder" in line
    assert read_manifest("shards") == before


def test_ctrl_c_leaves_nothing(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write = writing._HashedFile.write
    calls = []

    def interrupted(self: writing._HashedFile, data: object) -> int:
        calls.append(data)
        if len(calls) == 30:  # amid a file
            signal.raise_signal(signal.SIGINT)
        return write(self, data)

    monkeypatch.setattr(writing._HashedFile, "write", interrupted)
    assert status(["data", "shard", "data.parquet", "shards", "--eras-per-shard", "1", *COLUMNS]) == 1
    assert len(calls) >= 30
    assert capsys.readouterr().err.split("\n") == ["", "alignray: interrupted", ""]
    assert list(file.parent.iterdir()) == [file]
