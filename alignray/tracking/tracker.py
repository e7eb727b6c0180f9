"""The tracker: one actor that takes events from everywhere, spools them, and writes them to MLflow."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from alignray.tracking.errors import one_line
from alignray.tracking.events import SWEEP_KEY, Event
from alignray.tracking.nodes import report_node
from alignray.tracking.spool import Spool
from alignray.tracking.uri import EXPERIMENT

TrackerHandle: TypeAlias = Any
"""A Ray handle of a `Tracker` actor. ``ray.get(handle.log.remote(events))`` returns when the events are on disk."""

_BATCH = 2_000
_RETRY_S = 5.0
_GATHER_S = 1.0
"""How long events gather: MLflow takes one request of many metrics much faster than many requests of a few."""
_ROOM_S = 0.5
_SWITCH_S = 0.0005
"""How long a trial that logs waits for the thread that writes to MLflow to let it in; Python's own 5 ms are many."""
_GARBAGE_AFTER = 50_000
"""Objects after which Python looks for cycles: a batch makes a hundred thousand that have none."""
_ASKING = "asking"  # a thread of its own, for `log` may wait
_PASSED_ON = (
    *("MLFLOW_", "AWS_", "AZURE_", "GOOGLE_", "PG", "MYSQL_"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "REQUESTS_CA_BUNDLE"),
)
_FOR_THE_TRACKER = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",  # it tries again itself, and says why
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a line a run
}


class Backlog(NamedTuple):
    """Where the tracker stands.

    Attributes:
        size: Bytes that MLflow has not confirmed.
        error: What keeps MLflow from taking them; empty if nothing does.
        waiting: Why events are not taken at all, so that trials wait; empty if they are.
        refused: How many values MLflow has refused for good since the tracker started.
        last_refusal: The last of them, and why.
    """

    size: int
    error: str = ""
    waiting: str = ""
    refused: int = 0
    last_refusal: str = ""


class Tracker:
    """Spools events and, in a thread, writes them to MLflow in order, trying again while MLflow is away.

    What MLflow refuses for good is set aside in the spool's ``refused.jsonl``, and the rest goes on.

    Args:
        spool: The spool's folder.
        uri: The MLflow store.
        sweep_id: The sweep's identity.
        limit_bytes: What the spool may hold unconfirmed, within the size of one call; beyond, `log` waits.
        environment: Variables of the driver that its process is to have: where MLflow's credentials are.
        node: The node that it runs on, whose system metrics it takes; None takes none.
    """

    def __init__(
        self,
        spool: str,
        uri: str,
        sweep_id: str,
        *,
        limit_bytes: int,
        environment: Mapping[str, str] | None = None,
        node: str | None = None,
    ) -> None:
        os.environ.update(environment or {})
        for name, value in _FOR_THE_TRACKER.items():
            os.environ.setdefault(name, value)
        gc.set_threshold(_GARBAGE_AFTER)
        sys.setswitchinterval(_SWITCH_S)
        self._spool = Spool(Path(spool))
        self._target = (uri, EXPERIMENT, sweep_id)
        self._limit = limit_bytes
        self._writer: Any = None
        self._error = self._waiting = self._last_refusal = ""
        self._refused = 0
        self._lock, self._work = threading.Lock(), threading.Event()
        self._work.set()
        threading.Thread(target=self._drain, daemon=True).start()
        if node is not None:
            running = partial(self._spool.is_running, SWEEP_KEY)
            threading.Thread(target=report_node, args=(self.log, node, running), daemon=True).start()

    def log(self, events: Sequence[Event]) -> None:
        """Take events: when this returns they are on disk. It waits while the spool or its disk is full.

        Raises:
            OSError: The disk is full of other things.
        """
        while not self._take(events):
            time.sleep(_ROOM_S)
        self._work.set()

    def backlog(self) -> Backlog:
        """What MLflow has not confirmed, and what keeps it."""
        return Backlog(self._spool.size, self._error, self._waiting, self._refused, self._last_refusal)

    def run_ids(self) -> dict[str, str]:
        """The MLflow runs written so far, by key."""
        return dict(self._writer.runs) if self._writer is not None else {}

    def _take(self, events: Sequence[Event]) -> bool:
        with self._lock:
            if self._spool.size >= self._limit:
                self._waiting = f"the spool holds its {self._limit / 1e6:,.0f} MB"
                return False
            try:
                self._spool.append(events)
            except OSError as error:  # none was taken
                if not self._spool.size:  # nothing is left that MLflow could confirm, which would make room
                    raise
                self._waiting = f"the spool cannot be written: {error.strerror}"
                return False
            self._waiting = ""
            return True

    def _drain(self) -> None:
        while True:
            self._work.wait()
            self._work.clear()
            while self._spool.size:
                try:
                    written = self._write_some()
                    if written < _BATCH and self._spool.is_running(SWEEP_KEY):
                        time.sleep(_GATHER_S)
                except Exception as error:  # whatever MLflow throws, the events stay in the spool
                    self._start_over()
                    self._say(one_line(error))
                    time.sleep(_RETRY_S)

    def _write_some(self) -> int:
        """Write the oldest events; how many they were."""
        from alignray.tracking.store import require_connection
        from alignray.tracking.writer import MlflowWriter

        if self._writer is None:
            require_connection(self._target[0])
            self._writer = MlflowWriter(*self._target)
        with self._lock:
            events, offset = self._spool.pending(_BATCH)
        for event, why in self._writer.write(events):
            self._spool.set_aside(event, why)
            self._refused, self._last_refusal = self._refused + 1, f"{event.key}: {why}"
        self._error = ""  # before the spool is seen to be empty
        with self._lock:
            self._spool.confirm(offset)
        return len(events)

    def _start_over(self) -> None:
        """A run may have been made without our hearing of it, and a connection may be of no use any more."""
        from alignray.tracking.store import drop_connections

        self._writer = None
        drop_connections(self._target[0])

    def _say(self, error: str) -> None:
        if error != self._error:
            logging.getLogger(__name__).warning("MLflow cannot be written to, trying again: %s", error)
        self._error = error


def start_tracker(spool: Path, uri: str, sweep_id: str, *, limit_bytes: int) -> TrackerHandle:
    """Start the tracker on the driver's node. It asks for no core: it waits on MLflow most of the time.

    If its process is lost it starts again from its spool, and is told again what it had not yet taken. It has what the
    driver's environment says of MLflow, as an argument: a runtime environment's variables are shown in Ray's dashboard.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=-1,
        scheduling_strategy=here,  # where a SQLite file of the driver's is
        concurrency_groups={_ASKING: 1},
    )(Tracker)
    environment = {name: value for name, value in os.environ.items() if name.startswith(_PASSED_ON)}
    node = socket.gethostname()
    return actor.remote(str(spool), uri, sweep_id, limit_bytes=limit_bytes, environment=environment, node=node)


def backlog_of(tracker: TrackerHandle, timeout_s: float) -> Backlog:
    """`Tracker.backlog`, also while `Tracker.log` waits.

    Raises:
        ray.exceptions.GetTimeoutError: It does not answer in time.
    """
    import ray

    answer: Backlog = ray.get(tracker.backlog.options(concurrency_group=_ASKING).remote(), timeout=timeout_s)
    return answer


def runs_of(tracker: TrackerHandle) -> dict[str, str]:
    """`Tracker.run_ids`, also while `Tracker.log` waits."""
    import ray

    runs: dict[str, str] = ray.get(tracker.run_ids.options(concurrency_group=_ASKING).remote())
    return runs


def wait_until_written(tracker: TrackerHandle, timeout_s: float) -> str:
    """Wait until MLflow holds everything that was logged.

    Returns:
        Empty if it does; after the timeout, what keeps it.
    """
    import ray

    deadline = time.monotonic() + timeout_s
    with contextlib.suppress(ray.exceptions.GetTimeoutError):
        ray.get(tracker.log.remote([]), timeout=timeout_s)  # after all that was told before
    while True:
        try:
            backlog = backlog_of(tracker, max(deadline - time.monotonic(), 1.0))
        except ray.exceptions.GetTimeoutError:
            return "the tracker does not answer"
        if not backlog.size:
            return ""
        if time.monotonic() > deadline:
            return backlog.error or backlog.waiting or f"{backlog.size} bytes are still being written"
        time.sleep(0.05)
