import os
import signal
import subprocess
import sys
import time

import pytest
from mlflow import MlflowClient
from servers import free_port

from alignray.tracking import Backlog, RunEnd, RunMetrics, RunStart, Spool, Tracker, wait_until_written
from alignray.tracking import tracker as tracker_module

EVENTS = [
    RunStart(key="demo", tags={"alignray.kind": "sweep"}),
    RunStart(key="mse-0", parent="demo", params={"model.width": 32}),
    *(RunMetrics(key="mse-0", step=step, values={"val/corr": step / 10}) for step in range(1, 6)),
    RunEnd(key="mse-0", status="FINISHED"),
    RunEnd(key="demo", status="FINISHED"),
]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.1)


@pytest.fixture
def start(tmp_path):
    """Starts trackers, all on one spool, and lets their threads rest at the end."""
    trackers = []

    def begin(uri):
        trackers.append(Tracker(str(tmp_path / "spool"), uri, "id-1", limit_bytes=10**9))
        return trackers[-1]

    yield begin
    for tracker in trackers:
        tracker._spool.confirm(tracker._spool.confirmed + tracker._spool.size)


def until(condition, timeout_s=60.0):
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)


def written(tracker):
    until(lambda: tracker.backlog().size == 0)
    assert tracker.backlog() == Backlog(0)


def history(store, run_id, metric="val/corr"):
    return [(m.step, m.value) for m in MlflowClient(store).get_metric_history(run_id, metric)]


def test_what_is_logged_arrives(store, start):
    tracker = start(store)
    assert tracker.backlog() == Backlog(0)
    assert tracker.run_ids() == {}
    tracker.log(EVENTS[:4])
    written(tracker)
    for event in EVENTS[4:]:
        tracker.log([event])
    written(tracker)
    runs = tracker.run_ids()
    assert set(runs) == {"demo", "mse-0"}
    assert history(store, runs["mse-0"]) == [(step, step / 10) for step in range(1, 6)]
    assert {run.info.status for run in MlflowClient(store).search_runs(["1"])} == {"FINISHED"}


def test_a_new_tracker_goes_on_where_the_last_one_stopped(store, start):
    first = start(store)
    first.log(EVENTS[:4])
    written(first)
    second = start(store)
    second.log(EVENTS[3:])  # the trial repeats a step
    written(second)
    assert second.run_ids() == first.run_ids()
    assert history(store, second.run_ids()["mse-0"]) == [(step, step / 10) for step in range(1, 6)]


def test_what_a_crash_left_in_the_spool_is_written_at_the_start(store, tmp_path, start):
    Spool(tmp_path / "spool").append(EVENTS)
    tracker = start(store)
    written(tracker)
    assert history(store, tracker.run_ids()["mse-0"]) == [(step, step / 10) for step in range(1, 6)]


def test_a_run_whose_making_was_not_confirmed_is_not_made_twice(store, start, monkeypatch):
    create_run = MlflowClient.create_run
    lost = []

    def create_and_lose_the_answer(self, *args, **kwargs):
        run = create_run(self, *args, **kwargs)
        if len(lost) < 2:
            lost.append(run.info.run_id)
            raise ConnectionError("the answer was lost")
        return run

    monkeypatch.setattr(MlflowClient, "create_run", create_and_lose_the_answer)
    tracker = start(store)
    tracker.log(EVENTS)
    written(tracker)
    runs = MlflowClient(store).search_runs(["1"])
    assert sorted(run.info.run_id for run in runs) == sorted(tracker.run_ids().values()) == sorted(lost)
    assert history(store, tracker.run_ids()["mse-0"]) == [(step, step / 10) for step in range(1, 6)]


def test_what_keeps_it_is_said_in_one_line(start):
    tracker = start(f"sqlite:////proc/nowhere/{'x' * 9}.db")
    tracker.log(EVENTS)
    until(lambda: tracker.backlog().error)
    size, why, *_ = tracker.backlog()
    assert size > 0
    assert len(why.splitlines()) == 1
    assert tracker.run_ids() == {}


def test_what_keeps_it_says_no_password(start, monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    uri = f"http://me:s3cret@127.0.0.1:{free_port()}"
    tracker = start(uri)
    tracker.log(EVENTS)
    until(lambda: tracker.backlog().error)
    assert "127.0.0.1" in tracker.backlog().error
    assert "s3cret" not in tracker.backlog().error
    until(lambda: caplog.text)
    assert "s3cret" not in caplog.text


def test_a_store_that_is_away_at_first_gets_everything_once(store, tmp_path, start, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")  # MLflow's own waits would only make this slow
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    port = free_port()
    uri = f"http://127.0.0.1:{port}"
    tracker = start(uri)
    tracker.log(EVENTS[:4])
    until(lambda: tracker.backlog().error)
    size = tracker.backlog().size
    tracker.log(EVENTS[4:])  # taken all the same
    assert tracker.backlog().size > size

    command = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", store, "--port", str(port)]
    options = ["--host", "127.0.0.1", "--workers", "1", "--default-artifact-root", str(tmp_path / "artifacts")]
    server = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    )
    try:
        written(tracker)
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    runs = MlflowClient(store).search_runs(["1"])
    assert {run.info.run_id for run in runs} == set(tracker.run_ids().values())
    assert len(runs) == 2
    assert history(store, tracker.run_ids()["mse-0"]) == [(step, step / 10) for step in range(1, 6)]
    assert {run.info.status for run in runs} == {"FINISHED"}


def test_waiting_for_what_never_comes_ends(monkeypatch):
    import ray

    class Deaf:
        class log:  # noqa: N801
            @staticmethod
            def remote(events):
                return "never"

        class backlog:  # noqa: N801
            @staticmethod
            def options(**group):
                return Deaf.backlog

            @staticmethod
            def remote():
                return "never"

    def get(what, timeout):
        assert what == "never"
        raise ray.exceptions.GetTimeoutError(f"nothing in {timeout} s")

    monkeypatch.setattr(ray, "get", get)
    assert wait_until_written(Deaf, timeout_s=0.0) == "the tracker does not answer"
