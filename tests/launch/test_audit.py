"""The records of a sweep agree; where one is hurt, that is told, with the run that it concerns."""

import fcntl
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sweep import runs_of, tiny_sweep

from alignray.cli.main import status
from alignray.launch import audit, sweep_source, write_template

ROOT = Path(__file__).parents[2]
pytestmark = [
    pytest.mark.ray,
    # Ray leaves the files of its processes to the interpreter's exit.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
def home(first, tmp_path):
    """A copy of the finished sweep and of its store, to be hurt."""
    shutil.copytree(first.storage / "first", tmp_path / "runs" / "first")
    shutil.copy(first.store.removeprefix("sqlite:///"), tmp_path / "mlflow.db")
    return tmp_path


def looked_at(home, **options):
    return audit("first", storage=home / "runs", tracking_uri=f"sqlite:///{home}/mlflow.db", **options)


def told(found):
    """What was found, each with the run that it concerns."""
    return {line.key: "; ".join(line.findings) for line in found.lines if line.findings}


def in_store(home, statement):
    with sqlite3.connect(home / "mlflow.db") as database:
        database.execute(statement)
    database.close()


def run_id(home, name):
    return runs_of(f"sqlite:///{home}/mlflow.db", "first")[name].info.run_id


def test_a_finished_sweep_agrees_trial_by_trial(home, capsys, monkeypatch):
    monkeypatch.setattr("ray.init", lambda *_, **__: pytest.fail("Ray was started"))
    before = {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()}
    uri = f"sqlite:///{home}/mlflow.db"
    assert status(["doctor", "first", "--storage", str(home / "runs"), "--tracking-uri", uri]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].split() == ["run", "study", "Tune", "MLflow", "epochs", "checkpoint", "looks"]
    assert [line.split()[0] for line in said[1:-1]] == [
        *("aligned-0", "aligned-1", "aligned-final"),
        *("mse-0", "mse-1", "mse-final"),
    ]
    assert said[1].split() == ["aligned-0", "complete", "TERMINATED", "FINISHED", "complete", "3/3", "–", "–"]
    assert said[3].split() == ["aligned-final", "scored", "–", "FINISHED", "complete", "–/3", "–", "1"]
    assert said[-1] == "the records agree"
    assert {path: path.read_bytes() for path in (home / "runs").rglob("*") if path.is_file()} == before


def test_mlflow_lost_a_run_or_its_end_or_an_epoch(home):
    for name in ("aligned-0", "mse-1", "mse-final"):
        in_store(home, f"UPDATE runs SET lifecycle_stage = 'deleted' WHERE run_uuid = '{run_id(home, name)}'")
    in_store(home, f"UPDATE runs SET status = 'RUNNING' WHERE run_uuid = '{run_id(home, 'aligned-1')}'")
    in_store(home, f"DELETE FROM metrics WHERE step = 3 AND run_uuid = '{run_id(home, 'mse-0')}'")
    assert told(looked_at(home)) == {
        "aligned-0": "MLflow has no run of it",
        "aligned-1": "expected FINISHED complete in MLflow",
        "mse-0": "MLflow lacks 1 of its epochs",
        "mse-1": "MLflow has no run of it",
        "mse-final": "expected FINISHED complete in MLflow",
    }


def test_mlflow_says_another_end_or_more_epochs(home):
    other = "UPDATE tags SET value = 'pruned' WHERE key = 'alignray.state' AND run_uuid ="
    in_store(home, f"{other} '{run_id(home, 'aligned-0')}'")
    in_store(home, f"UPDATE metrics SET step = 4 WHERE step = 3 AND run_uuid = '{run_id(home, 'mse-0')}'")
    in_store(home, f"UPDATE runs SET status = 'KILLED' WHERE run_uuid = '{run_id(home, 'first')}'")
    found = looked_at(home)
    assert told(found) == {
        "aligned-0": "expected FINISHED complete in MLflow",
        "mse-0": "MLflow has 1 epochs more than its study",
    }
    assert found.findings == ("every final model is scored, and the sweep's own run in MLflow is KILLED",)


def test_mlflow_is_away(home, capsys):
    for uri, said in ((f"sqlite:///{home}/none.db", "no MLflow store at"), ("http://127.0.0.1:9", "127.0.0.1")):
        arguments = ["doctor", "first", "--storage", str(home / "runs"), "--tracking-uri", uri]
        assert status(arguments) == 1
        captured = capsys.readouterr()
        (line,) = (line for line in captured.out.splitlines() if line.startswith("disagreement: "))
        assert "MLflow cannot be asked" in line
        assert said in line
        assert "aligned-0" in captured.out
        assert f"alignray resume first --storage {home / 'runs'}" in captured.err
    assert not (home / "none.db").exists()


def test_the_journal_forgot_how_a_trial_ended(home):
    journal = home / "runs" / "first" / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    ends = [number for number, line in enumerate(lines) if json.loads(line)["op_code"] == 6 and b'"state":1' in line]
    del lines[ends[-1]]
    journal.write_bytes(b"".join(lines))
    found = looked_at(home)
    (said,) = told(found).values()
    assert said == "expected RUNNING in MLflow; Tune has ended it, and its study has not heard"


def test_a_damaged_line_of_the_journal(home):
    journal = home / "runs" / "first" / "optuna.journal"
    lines = journal.read_bytes().splitlines(keepends=True)
    lines[6] = b'{"op_code": \n'
    journal.write_bytes(b"".join(lines))
    found = looked_at(home)
    assert f"line 7 of {len(lines)} is damaged" in found.findings[0]
    assert "its study does not know it" in told(found)["mse-1"]


def test_a_line_that_a_crash_cut_short_is_no_disagreement_and_stays(home):
    journal = home / "runs" / "first" / "optuna.journal"
    journal.write_bytes(journal.read_bytes() + b'{"op_code": 5, "wor')
    found = looked_at(home)
    assert found.agrees
    assert "cut short" in found.notes[0]
    assert journal.read_bytes().endswith(b'"wor')


def test_the_spool_is_missing_or_has_a_backlog(home):
    spool = home / "runs" / "first" / "spool"
    confirmed = int((spool / "confirmed").read_text())
    (spool / "confirmed").write_text(str(confirmed - 100))
    assert looked_at(home).findings == ("the spool holds 100 bytes that MLflow has not confirmed",)
    shutil.rmtree(spool)
    (said,) = looked_at(home).findings
    assert "the spool is missing" in said
    assert not spool.exists()


def test_final_models_and_looks_that_do_not_agree(home):
    folder = home / "runs" / "first"
    (folder / "final" / "aligned" / "model.safetensors").unlink()
    (folder / "final" / "mse" / "holdout.json").unlink()
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["holdout_looks"] = {"mse": 1}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    assert told(looked_at(home)) == {
        "aligned-final": "it was scored on the holdout, and the manifest counts no look; "
        "its weights are missing: model.safetensors",
        "mse-final": "MLflow has its score, and the folder has not: holdout.json",
    }


def test_what_is_told_and_is_no_disagreement(home):
    folder = home / "runs" / "first"
    (state,) = (folder / "tune" / "attempt-1").glob("experiment_state-*.json")
    state.write_text("{")
    left = folder / "tune" / "checkpoints" / "mse-1"
    left.mkdir(parents=True)
    (left / "00000002.safetensors").touch()
    found = looked_at(home)
    assert found.agrees
    assert "Tune's snapshot cannot be read" in found.notes[0]
    assert {line.key: line.checkpoint for line in found.lines if line.checkpoint} == {"mse-1": 2}


def test_while_the_sweep_runs(home, capsys):
    handle = os.open(home / "runs" / "first", os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        assert looked_at(home).running
    finally:
        os.close(handle)
    assert not looked_at(home).running


def test_a_sweep_that_there_is_not(tmp_path, capsys):
    assert status(["doctor", "nosuch", "--storage", str(tmp_path)]) == 2
    assert "no sweep 'nosuch'" in capsys.readouterr().err


CTRL_C = """
import os, signal
from alignray.launch import find_sweep, run_sweep
from alignray.sweep import Silent

class CtrlC(Silent):
    def update(self, snapshot):
        if snapshot.ended:
            os.kill(os.getpid(), signal.SIGINT)

run_sweep(find_sweep("cut.py"), name="cut", progress=CtrlC())
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_interrupted_sweep_says_how_to_go_on_and_agrees_once_it_has(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    write_template(Path("cut.py"), sweep_source(tiny_sweep(), "A sweep to cut short."))
    cut = python("-c", CTRL_C)
    assert "Interrupted: stopped; " in cut.stderr
    status(["doctor", "cut"])  # 1 where MLflow had not heard of all of it in time
    said = capsys.readouterr().out
    assert "note: interrupted: " in said
    assert "aligned-0" in said
    done = python("-m", "alignray", "resume", "cut")
    assert done.returncode == 0, done.stderr
    found = audit("cut")
    assert found.agrees, found
    assert not found.notes


def python(*arguments):
    """In a process of its own, whose cluster ends with it."""
    return subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
    )
