"""A sweep's own run in MLflow: begun, watched, and ended as the work within ends."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignray.errors import StorageError, WorkError
from alignray.sweep import Manifest, Progress, sweep_start, sweep_studies, write_environment
from alignray.tracking import (
    SWEEP_KEY,
    Backlog,
    RunEnd,
    RunNote,
    TrackerHandle,
    backlog_of,
    start_monitors,
    start_tracker,
    wait_until_written,
)

FLUSH_S = 60.0
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ESTALE)
_FLUSH_INTERRUPTED_S = 5.0
_WATCH_S = 5.0


class Interrupted(WorkError):
    """The user stopped the sweep; what was finished is kept."""


@contextlib.contextmanager
def tracked(folder: Path, manifest: Manifest, uri: str, progress: Progress) -> Iterator[TrackerHandle]:
    """Start the tracker and the sweep's run, and end the run as the work within ends.

    Args:
        folder: The sweep's folder.
        manifest: The sweep.
        uri: The MLflow store, with its password.
        progress: Hears what keeps MLflow.

    Raises:
        Interrupted: Ctrl-C.
        StorageError: The sweep's folder can no longer be written to.
        WorkError: The work is done, and MLflow lacks some of it.
    """
    import ray

    limit = int(manifest.config.resources.spool_limit_mb * 1e6)
    tracker = start_tracker(folder / "spool", uri, manifest.id, limit_bytes=limit)
    circumstances = RunNote(key=SWEEP_KEY, files=(str(write_environment(folder)), str(folder / "manifest.json")))
    with _watched(tracker, folder / "spool", progress):
        try:
            ray.get(tracker.log.remote([sweep_start(manifest), circumstances]))
            yield tracker
        except KeyboardInterrupt:
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C only cuts the wait for MLflow short
                _end(tracker, "KILLED", _FLUSH_INTERRUPTED_S)
            raise Interrupted(_stopped(folder, manifest)) from None
        except (StorageError, OSError) as error:
            cause = getattr(error, "cause", error)  # the tracker's own, of what Ray passes on
            if isinstance(cause, OSError) and cause.errno not in _UNWRITABLE:
                raise
            raise StorageError(
                f"{folder} can no longer be written to ({cause}); nothing that was finished is lost. Once it can: "
                f"{_resume_command(folder)}"
            ) from error
        except BaseException:
            _end(tracker, "FAILED", _FLUSH_INTERRUPTED_S)
            raise
        left = _end(tracker, "FINISHED", FLUSH_S)
    if left:
        raise WorkError(
            f"the sweep is done, its result is in {folder}, but MLflow lacks some of it ({left}); the rest is kept in "
            f"{folder / 'spool'}. When MLflow is back: {_resume_command(folder)}"
        )


def _end(tracker: TrackerHandle, status: str, timeout_s: float) -> str:
    tracker.log.remote([RunEnd(key=SWEEP_KEY, status=status)])
    return wait_until_written(tracker, timeout_s)


def _stopped(folder: Path, manifest: Manifest) -> str:
    rows = [row for study in sweep_studies(folder, manifest).values() for row in study.rows()]
    ended = sum(row.state != "running" for row in rows)
    return f"stopped; {ended} trials are finished and kept. Go on with: {_resume_command(folder)}"


def _resume_command(folder: Path) -> str:
    elsewhere = "" if folder.parent == Path("runs").resolve() else f" --storage {folder.parent}"
    return f"alignray resume {folder.name}{elsewhere}"


@contextlib.contextmanager
def _watched(tracker: TrackerHandle, spool: Path, progress: Progress) -> Iterator[None]:
    """Say what keeps MLflow when it begins and when it ends, and see to monitors on the nodes that come."""
    done = threading.Event()
    thread = threading.Thread(target=_watch, args=(tracker, spool, progress, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _watch(tracker: TrackerHandle, spool: Path, progress: Progress, done: threading.Event) -> None:
    import ray

    before, monitors, last = Backlog(0), dict[str, Any](), False
    while not last:
        last = done.wait(_WATCH_S)
        try:
            if not last:
                start_monitors(tracker, monitors)
            now = backlog_of(tracker, _WATCH_S)
        except ray.exceptions.RayError:
            continue  # it is being started again
        for text in news(before, now, spool):
            progress.warn(text)
        before = now
    for monitor in monitors.values():
        ray.kill(monitor)


def news(before: Backlog, now: Backlog, spool: Path) -> Iterator[str]:
    """What is worth saying of the tracker, after what was said before."""
    if now.error and not before.error:
        yield f"MLflow cannot be written to ({now.error}); the sweep goes on, and its events are kept in {spool}"
    if before.error and not now.error:
        yield "MLflow takes events again; what was kept follows in order"
    if now.waiting and not before.waiting:
        yield f"{now.waiting}, so trials wait at the end of their epoch; they go on when MLflow has taken some of it"
    if before.waiting and not now.waiting:
        yield "the spool has room again; trials go on"
    if now.refused > before.refused:
        values = "1 value" if now.refused == 1 else f"{now.refused} values"
        yield f"MLflow refused {values}, kept in {spool / 'refused.jsonl'}; the last, of {now.last_refusal}"
