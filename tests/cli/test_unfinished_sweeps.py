"""Sweeps on disk that cannot be gone on with, or not be compared yet: no Ray is started for any of them."""

import fcntl
import json
import os
from pathlib import Path

import pandas as pd
import pytest

import alignray as ar
from alignray.cli.main import status
from alignray.configuration import replace_at
from alignray.launch import find_sweep
from alignray.sweep import Manifest


@pytest.fixture
def begun(tmp_path, monkeypatch):
    """A sweep that has begun on a file of its own; its folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    rows = pd.DataFrame({"era": [f"{n // 5:03d}" for n in range(300)], "target": [n % 7 / 7 for n in range(300)]})
    rows["feature_a"] = [float(n % 5) for n in range(300)]
    rows.to_parquet("panel.parquet")
    config = replace_at(find_sweep("quickstart"), {"data.source": "panel.parquet", "holdout.eras": 9})
    folder = tmp_path / "runs" / "begun"
    folder.mkdir(parents=True)
    panel = ar.Panel.from_parquet("panel.parquet")
    Manifest.of("begun", config, panel, f"sqlite:///{tmp_path}/mlflow.db").save(folder)
    return folder


def complaint(capsys, *arguments):
    assert status(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def names(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_sweep_without_a_result_is_not_compared_and_not_touched(begun, capsys):
    line = complaint(capsys, "compare", "begun")
    assert "no comparison yet" in line
    assert "alignray resume begun" in line
    assert names(begun) == ["manifest.json"]


@pytest.mark.parametrize("command", [["resume", "begun"], ["run", "quickstart", "--name", "begun", "--resume"]])
def test_data_that_changed_since_the_sweep_began(begun, capsys, command):
    frame = pd.read_parquet("panel.parquet")
    frame.loc[3, "target"] += 0.01
    frame.to_parquet("panel.parquet")
    line = complaint(capsys, *command)
    assert "data have changed" in line
    assert "put the data back" in line
    assert names(begun) == ["manifest.json"]


def test_data_that_are_gone(begun, capsys):
    Path("panel.parquet").unlink()
    assert "panel.parquet" in complaint(capsys, "resume", "begun")


def test_a_sweep_that_another_process_drives(begun, capsys):
    handle = os.open(begun, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert "is running" in complaint(capsys, "resume", "begun")
    finally:
        os.close(handle)
    assert names(begun) == ["manifest.json"]


def test_another_store_that_is_none_changes_nothing(begun, capsys):
    before = (begun / "manifest.json").read_text()
    assert "tracking URI" in complaint(capsys, "resume", "begun", "--tracking-uri", "./mlruns")
    assert (begun / "manifest.json").read_text() == before


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", "null"])
@pytest.mark.parametrize("command", ["resume", "compare", "ui"])
def test_a_manifest_that_is_spoilt(begun, capsys, command, content):
    (begun / "manifest.json").write_text(content)
    complaint(capsys, command, "begun")
    assert (begun / "manifest.json").read_text() == content


def test_a_manifest_of_a_newer_version(begun, capsys):
    plain = json.loads((begun / "manifest.json").read_text())
    (begun / "manifest.json").write_text(json.dumps({**plain, "format": 2}))
    assert "upgrade" in complaint(capsys, "resume", "begun")


def test_a_name_that_is_taken_is_left_as_it_is(begun, capsys):
    before = (begun / "manifest.json").read_bytes()
    line = complaint(capsys, "run", "quickstart", "--name", "begun")
    assert "'begun'" in line
    assert "alignray resume begun" in line
    assert (begun / "manifest.json").read_bytes() == before
    assert names(begun) == ["manifest.json"]


def test_the_ui_needs_a_store(begun, capsys):
    line = complaint(capsys, "ui", "begun")
    assert "mlflow.db" in line
    assert "run a sweep first" in line
