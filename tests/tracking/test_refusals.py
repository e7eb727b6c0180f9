"""What MLflow refuses for good is set aside, in its smallest part, and holds up nothing; what passes is waited for."""

import errno
import json
import sqlite3

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from stream import events, held, told, until

from alignray.tracking import Event, RunEnd, RunMetrics, RunNote, RunStart, Tracker
from alignray.tracking import tracker as tracker_module
from alignray.tracking.errors import StoreError, is_refusal
from alignray.tracking.fitting import fitting_name


@pytest.fixture
def tracker(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.1)
    return Tracker(str(tmp_path / "spool"), store, "id-1", limit_bytes=10**9)


def written(tracker):
    until(lambda: tracker.backlog().size == 0)


def set_aside(tmp_path):
    file = tmp_path / "spool" / "refused.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return [(line.pop("refused"), Event.from_line(json.dumps(line))) for line in lines]


def test_one_bad_value_among_many_is_set_aside_alone(store, tracker, tmp_path):
    given = events(runs=3, steps=30)
    bad = RunMetrics(key="mse-1", step=31, values={"good": 1.0, "val/bad": 10**400, "fine": 2.0})
    given.insert(-5, bad)
    tracker.log(given)
    written(tracker)
    ((why, event),) = set_aside(tmp_path)
    assert why.startswith("OverflowError")
    assert event == RunMetrics(key="mse-1", step=31, values={"val/bad": 10**400}, time_ms=bad.time_ms)
    expected = told([event for event in given if event is not bad])
    rest = RunMetrics(key="mse-1", step=31, values={"good": 1.0, "fine": 2.0}, time_ms=bad.time_ms)
    expected["mse-1"] |= told([rest])["mse-1"]
    assert held(store) == expected
    backlog = tracker.backlog()
    assert (backlog.error, backlog.refused) == ("", 1)
    assert backlog.last_refusal.startswith("mse-1: OverflowError")


def test_a_param_that_changes_and_a_file_that_is_gone_hold_up_nothing(store, tracker, tmp_path):
    given = events(runs=1)
    there = tmp_path / "there.csv"
    there.write_text("a\n")
    changed = RunStart(key="mse-0", params={"model.width": 64, "model.depth": 2}, tags={"new": "tag"})
    files = RunNote(key="mse-0", files=(str(tmp_path / "gone.csv"), str(there)), tags={"noted": "yes"})
    given[3:3] = [changed, files]
    tracker.log(given)
    written(tracker)
    assert [event for _, event in set_aside(tmp_path)] == [
        RunStart(key="mse-0", params={"model.width": 64}, time_ms=changed.time_ms),
        RunNote(key="mse-0", files=(str(tmp_path / "gone.csv"),), time_ms=files.time_ms),
    ]
    assert held(store) == told(given)
    client, run_id = MlflowClient(store), tracker.run_ids()["mse-0"]
    data = client.get_run(run_id).data
    assert data.params == {"model.width": "32", "model.depth": "2"}
    assert (data.tags["new"], data.tags["noted"]) == ("tag", "yes")
    assert [file.path for file in client.list_artifacts(run_id)] == ["there.csv"]


def test_a_store_that_refuses_everything_is_waited_for(store, tracker, tmp_path, monkeypatch):
    """Also where what it says sounds as if the values were at fault."""

    def refuse(self, *args, **kwargs):
        raise MlflowException("the database is being moved", INVALID_PARAMETER_VALUE)

    with monkeypatch.context() as patch:
        for name in ("log_batch", "set_experiment_tag", "create_run", "set_terminated"):
            patch.setattr(MlflowClient, name, refuse)
        given = events()
        tracker.log(given)
        until(lambda: "being moved" in tracker.backlog().error)
        assert set_aside(tmp_path) == []
    written(tracker)
    assert held(store) == told(given)
    assert set_aside(tmp_path) == []


def test_a_locked_database_is_waited_for(store, tracker, tmp_path, monkeypatch):
    given = events(runs=1)
    tracker.log(given[:3])
    written(tracker)
    database = sqlite3.connect(tmp_path / "mlflow.db")
    database.execute("BEGIN EXCLUSIVE")
    tracker.log(given[3:])
    until(lambda: "locked" in tracker.backlog().error)
    database.rollback()
    database.close()
    written(tracker)
    assert held(store) == told(given)
    assert set_aside(tmp_path) == []


def test_a_deleted_experiment_is_waited_for(store, tracker, tmp_path):
    given = events(runs=1)
    tracker.log(given[:3])
    written(tracker)
    client = MlflowClient(store)
    experiment = client.get_run(tracker.run_ids()["mse-0"]).info.experiment_id
    client.delete_experiment(experiment)
    tracker.log(given[3:])
    until(lambda: "deleted" in tracker.backlog().error)
    client.restore_experiment(experiment)
    written(tracker)
    assert held(store) == told(given)
    assert set_aside(tmp_path) == []


def test_events_of_a_run_that_is_not_there_are_set_aside_whole(store, tracker, tmp_path):
    orphan = RunMetrics(key="mse-9", step=1, values={"a": 1.0, "b": 2.0})
    given = [*events(runs=1), orphan, RunEnd(key="mse-9", status="FINISHED")]
    tracker.log(given)
    written(tracker)
    assert [event for _, event in set_aside(tmp_path)] == given[-2:]


@pytest.mark.parametrize(
    ("error", "refused"),
    [
        (ConnectionRefusedError(), False),
        (TimeoutError(), False),
        (StoreError("deleted"), False),
        (OSError(errno.ENOSPC, "no space left"), False),
        (sqlite3.OperationalError("database is locked"), False),
        (MlflowException("API request failed"), False),
        (FileNotFoundError("gone.csv"), True),
        (PermissionError("/mlruns"), True),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "no"), True),
        (MlflowException("bad", INVALID_PARAMETER_VALUE), True),
    ],
)
def test_which_errors_blame_what_was_sent(error, refused):
    assert is_refusal(error) is refused


@pytest.mark.parametrize("status", [401, 403, 408, 429, 500, 502, 503])
def test_answers_that_may_be_others_later_blame_nothing(status):
    import requests
    from mlflow.exceptions import RestException

    assert not is_refusal(RestException({"error_code": str(status), "message": "no"}))
    response = requests.Response()
    response.status_code = status
    assert not is_refusal(requests.HTTPError(response=response))


@pytest.mark.parametrize("name", ["", "a;b", "/a", "../a", "a//b", "a/", ".", "x" * 251, "a\0b", "\ud800", "a%20b"])
def test_names_that_mlflow_refuses_are_changed_and_kept_apart(name):
    from mlflow.utils.validation import _validate_metric_name, _validate_param, _validate_tag_name

    fitted = fitting_name(name)
    _validate_metric_name(fitted)
    _validate_tag_name(fitted)
    _validate_param(fitted, "1")
    assert len(fitted) <= 250
    assert fitting_name(name + "'") != fitted
    assert fitting_name("val/corr") == "val/corr"
