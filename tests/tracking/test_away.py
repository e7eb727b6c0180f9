"""MLflow is killed, its database locked, the tracker killed: every metric arrives, each once."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from servers import MlflowServer
from stream import events, held, told, until

from alignray.errors import SweepError
from alignray.tracking import Tracker, require_access
from alignray.tracking import tracker as tracker_module

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

_TELL = """
import sys
import time
from stream import events
from alignray.tracking import Tracker
time.time = lambda: 1_700_000_000.5  # told again, an event has the time that it had
tracker = Tracker(sys.argv[1], sys.argv[2], "id-1", limit_bytes=10**9)
for number, event in enumerate(events(runs=3, steps=200)):
    tracker.log([event])
    print(number, flush=True)
while tracker.backlog().size:
    time.sleep(0.05)
print("written", flush=True)
"""


def tell(tracker, given, pause_s):
    """Tell the events one by one from a thread, as trials do."""

    def telling():
        for event in given:
            tracker.log([event])
            time.sleep(pause_s)

    thread = threading.Thread(target=telling, daemon=True)
    thread.start()
    return thread


def test_a_server_killed_ten_times_in_a_stream_of_events(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.2)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server = MlflowServer(tmp_path, store)
    given = events(runs=4, steps=200)
    tracker = Tracker(str(tmp_path / "spool"), server.uri, "id-1", limit_bytes=10**9)
    some = len(given) // 10 + 1
    try:
        for turn in range(10):
            server.start()
            for event in given[turn * some : (turn + 1) * some]:
                tracker.log([event])
            time.sleep(turn / 10)  # somewhere in a request, or between two
            server.kill()
        server.start()
        until(lambda: tracker.backlog().size == 0)
    finally:
        server.kill()
    assert tracker.backlog().refused == 0
    assert held(store) == told(given)


def test_a_tracker_killed_again_and_again(store, tmp_path, monkeypatch):
    """Its successor is told again what was not acknowledged, and some of what was."""
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": f"{here.parents[1]}:{here}"}
    for turn in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", _TELL, str(tmp_path / "spool"), store],
            env=environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        for line in process.stdout:
            if line == "written\n":
                assert turn == 4
            elif turn < 4 and int(line) >= 150 * (turn + 1):
                time.sleep(0.5 * turn)
                process.send_signal(signal.SIGKILL)
                break
        process.stdout.close()
        assert process.wait(timeout=300) == (0 if turn == 4 else -signal.SIGKILL)
    monkeypatch.setattr(time, "time", lambda: 1_700_000_000.5)
    assert held(store) == told(events(runs=3, steps=200))


def test_a_database_locked_again_and_again(store, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.1)
    given = events(runs=2, steps=150)
    tracker = Tracker(str(tmp_path / "spool"), store, "id-1", limit_bytes=10**9)
    thread = tell(tracker, given, 0.05)
    database = sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None, timeout=60)
    for lock_s in (1.0, 25.0, 2.0):  # the second for longer than MLflow waits
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(lock_s)
        database.execute("ROLLBACK")
        time.sleep(1.0)
    database.close()
    thread.join(timeout=120)
    until(lambda: tracker.backlog().size == 0)
    assert tracker.backlog().refused == 0
    assert held(store) == told(given)


@pytest.fixture
def read_only(blank_database, tmp_path, monkeypatch):
    """An MLflow database on a file system that can only be read as yet."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(folder)], capture_output=True, check=False).returncode:
        pytest.skip("this root may mount nothing")
    monkeypatch.chdir(tmp_path)
    shutil.copy(blank_database, folder / "mlflow.db")
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_database_that_can_only_be_read_for_a_while(read_only, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.2)
    store = f"sqlite:///{read_only / 'mlflow.db'}"
    with pytest.raises(SweepError, match="readonly"):
        require_access(store)
    given = events(runs=2, steps=60)
    tracker = Tracker(str(tmp_path / "spool"), store, "id-1", limit_bytes=10**9)
    tracker.log(given)
    until(lambda: "readonly" in tracker.backlog().error)
    subprocess.run(["mount", "-o", "remount,rw", str(read_only)], check=True)
    until(lambda: tracker.backlog().size == 0)
    assert tracker.backlog().refused == 0
    assert held(store) == told(given)
