"""A spool that is full, or on a full disk, makes trials wait, and takes everything when there is room."""

import os
import subprocess
import threading
import time

import pytest
from mlflow import MlflowClient
from stream import events, held, told, until

from alignray.tracking import RunMetrics, Tracker
from alignray.tracking import spool as spool_module
from alignray.tracking import tracker as tracker_module


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.1)
    monkeypatch.setattr(tracker_module, "_ROOM_S", 0.02)


def told_one_by_one(tracker, given):
    """Tells the events from a thread, as a trial does: the next when the one before has been taken."""
    taken = []

    def tell():
        for event in given:
            tracker.log([event])
            taken.append(event)

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    return thread, taken


def away(self, *args, **kwargs):
    raise ConnectionRefusedError("MLflow is away")


def test_beyond_its_bound_events_wait_and_none_is_lost(store, tmp_path, monkeypatch):
    given = events(runs=3, steps=40)
    tracker = Tracker(str(tmp_path / "spool"), store, "id-1", limit_bytes=4_000)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_experiment_by_name", away)
        thread, taken = told_one_by_one(tracker, given)
        until(lambda: tracker.backlog().waiting)
        before = len(taken)
        time.sleep(0.2)
        assert len(taken) == before < len(given)
        backlog = tracker.backlog()
        assert 4_000 <= backlog.size < 5_000
        assert "away" in backlog.error
        assert "the spool holds its" in backlog.waiting
    thread.join(timeout=120)
    until(lambda: tracker.backlog().size == 0)
    assert tracker.backlog() == (0, "", "", 0, "")
    assert held(store) == told(given)


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this root may mount nothing")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.parametrize("segment_bytes", [50_000, 8 << 20])
def test_on_a_full_disk_events_wait_and_none_is_lost(store, small_disk, monkeypatch, segment_bytes):
    monkeypatch.setattr(spool_module, "_SEGMENT_BYTES", segment_bytes)
    filler = small_disk / "filler"
    tracker = Tracker(str(small_disk / "spool"), store, "id-1", limit_bytes=10**9)
    given = events(runs=3, steps=400)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "get_experiment_by_name", away)
        filler.write_bytes(b"x" * 100_000)
        thread, taken = told_one_by_one(tracker, given)
        until(lambda: tracker.backlog().waiting)
        assert "No space left" in tracker.backlog().waiting
        assert len(taken) < len(given)
    if segment_bytes > 100_000:
        filler.unlink()  # somebody makes room; else what MLflow confirms does
    thread.join(timeout=240)
    assert not thread.is_alive()
    until(lambda: tracker.backlog().size == 0)
    assert held(store) == told(given)


def test_a_call_is_taken_whole_or_not_at_all(store, small_disk, monkeypatch):
    tracker = Tracker(str(small_disk / "spool"), store, "id-1", limit_bytes=10**9)
    many = [RunMetrics(key="mse-0", step=step, values={"x" * 200: 1.0}) for step in range(1, 2_000)]
    with pytest.raises(OSError, match="No space left"):  # and MLflow could make no room
        tracker.log(many)
    assert tracker.backlog().size == 0
    assert tracker._take(many[:1])
