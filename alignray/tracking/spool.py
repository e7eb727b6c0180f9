"""The spool: every event is on disk before MLflow hears of it, and stays until MLflow has confirmed it."""

from __future__ import annotations

import contextlib
import json
import os
from bisect import bisect_right
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

from alignray.tracking.events import Event, RunEnd, RunMetrics, RunStart

_SEGMENT_BYTES = 8 << 20
_Standing: TypeAlias = tuple[int, bool]
"""A run's last step, and whether it has ended."""


class Spool:
    """Events in append-only segments, with the offset up to which MLflow has confirmed them.

    An event's offset counts the bytes of all events before it. A segment is a file of events, named by the offset of
    its first, and a file that says how far every run was when it began: so the spool is opened by reading its last
    segment, and a segment that is confirmed is removed. One process writes. A line that a crash cut short is dropped on
    opening: its event was never acknowledged. An event outlives any process; it outlives the machine once the kernel
    has written it, which it is not made to wait for.

    Args:
        folder: The spool's folder, created if need be.

    Attributes:
        confirmed: The offset before which MLflow holds everything.
        refused: The file of what MLflow has refused, if anything.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._offset_file = folder, folder / "confirmed"
        self.refused = folder / "refused.jsonl"
        self._runs: dict[str, _Standing] = {}
        self._starts = sorted(int(path.stem.removeprefix("state-")) for path in folder.glob("state-*.json"))
        if not self._starts:
            self._begin_segment(0)
        for path in folder.glob("events-*.jsonl"):
            if int(path.stem.removeprefix("events-")) not in self._starts:
                path.unlink()  # a crash came while it was removed
        self._end = self._starts[-1] + self._read_last_segment()
        self.confirmed = self._read_confirmed()

    def append(self, events: Sequence[Event]) -> None:
        """Write events down. What is already there is dropped: a trial that is started again repeats its steps.

        That is metrics of a step that a run has passed, and the end of a run that has ended and not begun again.

        Raises:
            OSError: The disk is full, or fails; then none of them was taken.
        """
        runs: dict[str, _Standing] = {}
        lines = []
        for event in events:
            after = _after(event, runs.get(event.key) or self._runs.get(event.key, (0, False)))
            if after is not None:
                runs[event.key] = after
                lines.append(f"{event.to_line()}\n")
        if self._end - self._starts[-1] >= _SEGMENT_BYTES:
            self._begin_segment(self._end)
        path, content = self._events(self._starts[-1]), "".join(lines).encode()
        try:
            with path.open("ab") as file:
                file.write(content)
        except OSError:
            os.truncate(path, self._end - self._starts[-1])  # not half a line that the next is written behind
            raise
        self._end += len(content)
        self._runs |= runs

    def pending(self, limit: int) -> tuple[list[Event], int]:
        """The oldest unconfirmed events of one segment, at most `limit`, and the offset that confirms them."""
        start, end = self._starts[bisect_right(self._starts, self.confirmed) - 1], self.confirmed
        events: list[Event] = []
        with self._events(start).open("rb") as file:
            file.seek(end - start)
            for line in file:
                if len(events) == limit or not line.endswith(b"\n"):
                    break
                events.append(Event.from_line(line.decode()))
                end += len(line)
        return events, end

    def confirm(self, offset: int) -> None:
        """Note that MLflow holds everything before the offset, and remove the segments that lie before it."""
        self.confirmed = offset
        # Over what was there, which needs no room on a full disk. In doubt MLflow is told again, and takes it once.
        with contextlib.suppress(OSError):
            handle = os.open(self._offset_file, os.O_WRONLY | os.O_CREAT, 0o644)
            try:
                os.pwrite(handle, f"{offset:020d}".encode(), 0)
            finally:
                os.close(handle)
        while len(self._starts) > 1 and self._starts[1] <= offset:
            start = self._starts.pop(0)
            self._state(start).unlink()
            self._events(start).unlink()

    def set_aside(self, event: Event, why: str) -> None:
        """Keep an event that MLflow refuses where it holds up no other."""
        line = json.dumps({"refused": why, **json.loads(event.to_line())}) + "\n"
        with self.refused.open("a+") as file:
            file.seek(0)
            if line not in file:  # after a crash it is refused again
                file.write(line)

    @property
    def size(self) -> int:
        """Bytes not yet confirmed."""
        return self._end - self.confirmed

    def is_running(self, key: str) -> bool:
        """Whether a run has begun and not ended."""
        return key in self._runs and not self._runs[key][1]

    def _begin_segment(self, start: int) -> None:
        partial = self._state(start).with_suffix(".partial")
        partial.write_text(json.dumps(self._runs))
        self._events(start).touch()
        partial.replace(self._state(start))
        self._starts.append(start)

    def _read_last_segment(self) -> int:
        """Cut off what a crash left half written, hear how far the runs are, and return the segment's bytes."""
        path = self._events(self._starts[-1])
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(path, whole)
        stored = json.loads(self._state(self._starts[-1]).read_text())
        self._runs = {key: (step, ended) for key, (step, ended) in stored.items()}
        for line in content[:whole].decode().split("\n")[:-1]:
            event = Event.from_line(line)
            after = _after(event, self._runs.get(event.key, (0, False)))
            if after is not None:
                self._runs[event.key] = after
        return whole

    def _read_confirmed(self) -> int:
        """The offset; that of the first event there is where a crash spoilt it."""
        try:
            offset = int(self._offset_file.read_text())
        except (FileNotFoundError, ValueError):
            return self._starts[0]
        return offset if self._starts[0] <= offset <= self._end and self._begins_a_line(offset) else self._starts[0]

    def _begins_a_line(self, offset: int) -> bool:
        if offset in self._starts:
            return True
        start = self._starts[bisect_right(self._starts, offset) - 1]
        with self._events(start).open("rb") as file:
            file.seek(offset - start - 1)
            return file.read(1) == b"\n"

    def _events(self, start: int) -> Path:
        return self._folder / f"events-{start:020d}.jsonl"

    def _state(self, start: int) -> Path:
        return self._folder / f"state-{start:020d}.json"


def _after(event: Event, run: _Standing) -> _Standing | None:
    """How a run stands after an event; None if the event says nothing new."""
    step, ended = run
    if isinstance(event, RunMetrics):
        return (event.step, ended) if event.step > step else None
    if isinstance(event, RunStart):
        return step, False
    if isinstance(event, RunEnd):
        return None if ended else (step, True)
    return run


def unconfirmed_bytes(folder: Path) -> int | None:
    """What of a spool MLflow has not confirmed, without opening it; None where there is no spool."""
    ends = [int(path.stem.removeprefix("events-")) + path.stat().st_size for path in folder.glob("events-*.jsonl")]
    if not ends:
        return None
    confirmed = 0
    with contextlib.suppress(FileNotFoundError, ValueError):
        confirmed = int((folder / "confirmed").read_text())
    return max(ends) - confirmed
