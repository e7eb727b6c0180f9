"""The tracker: one actor that takes events from everywhere, spools them, and writes them to MLflow."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

from alignray.tracking.events import Event
from alignray.tracking.spool import Spool
from alignray.tracking.uri import without_passwords

TrackerHandle: TypeAlias = Any
"""A Ray handle of a `Tracker` actor."""

_BATCH = 2_000
_RETRY_S = 5.0


class Tracker:
    """Spools events and, in a thread, writes them to MLflow in order, trying again while MLflow is away.

    Args:
        spool: The spool's folder.
        uri: The MLflow store.
        experiment: The experiment's name.
        sweep_id: The sweep's identity.
    """

    def __init__(self, spool: str, uri: str, experiment: str, sweep_id: str) -> None:
        self._spool = Spool(Path(spool))
        self._target = (uri, experiment, sweep_id)
        self._writer: Any = None
        self._error = ""
        self._lock, self._work = threading.Lock(), threading.Event()
        self._work.set()
        threading.Thread(target=self._drain, daemon=True).start()

    def log(self, events: Sequence[Event]) -> None:
        """Take events: when this returns they are on disk."""
        with self._lock:
            self._spool.append(events)
        self._work.set()

    def backlog(self) -> tuple[int, str]:
        """Bytes that MLflow has not confirmed, and what keeps them (empty if nothing does)."""
        return self._spool.size, self._error

    def run_ids(self) -> dict[str, str]:
        """The MLflow runs written so far, by key."""
        return dict(self._writer.runs) if self._writer is not None else {}

    def _drain(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while self._spool.size:
                try:
                    self._write_some()
                    self._error = ""
                except Exception as error:  # whatever MLflow throws, the events stay in the spool
                    first = str(error).splitlines()[0] if str(error) else ""
                    self._error = without_passwords(f"{type(error).__name__}: {first}")
                    self._writer = None  # a run may have been made without our hearing of it: look for it first
                    logging.getLogger(__name__).warning("MLflow cannot be written to, trying again: %s", self._error)
                    time.sleep(_RETRY_S)

    def _write_some(self) -> None:
        from alignray.tracking.writer import MlflowWriter

        if self._writer is None:
            self._writer = MlflowWriter(*self._target)
        with self._lock:
            events, offset = self._spool.pending(_BATCH)
        self._writer.write(events)
        with self._lock:
            self._spool.confirm(offset)


def start_tracker(spool: Path, uri: str, experiment: str, sweep_id: str) -> TrackerHandle:
    """Start the tracker on the Ray cluster. It asks for no core: it waits on MLflow most of the time.

    If its process is lost it starts again from its spool, and is told again what it had not yet taken.
    """
    import ray

    actor = ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1)(Tracker)
    return actor.remote(str(spool), uri, experiment, sweep_id)


def wait_until_written(tracker: TrackerHandle, timeout_s: float) -> str:
    """Wait until MLflow holds everything that was logged.

    Returns:
        Empty if it does; after the timeout, what keeps it.
    """
    import ray

    deadline = time.monotonic() + timeout_s
    while True:
        try:
            size, error = ray.get(tracker.backlog.remote(), timeout=max(deadline - time.monotonic(), 1.0))
        except ray.exceptions.GetTimeoutError:
            return "the tracker does not answer"
        if not size:
            return ""
        if time.monotonic() > deadline:
            return error or f"{size} bytes are still being written"
        time.sleep(0.05)
