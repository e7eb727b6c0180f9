"""The spool: every event is on disk before MLflow hears of it, and stays until MLflow has confirmed it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from alignray.tracking.events import Event, RunEnd, RunMetrics, RunStart


class Spool:
    """An append-only file of events, with the offset up to which MLflow has confirmed them.

    One process writes. A line that a crash cut short is dropped on opening: its event was never acknowledged.

    Args:
        folder: The spool's folder, created if need be.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._events, self._offset_file = folder / "events.jsonl", folder / "confirmed"
        self._repair()
        self._last_step: dict[str, int] = {}
        self._ended: set[str] = set()
        for line in self._events.read_text().splitlines():
            _is_new(Event.from_line(line), self._last_step, self._ended)
        self.confirmed = self._read_confirmed()

    def append(self, events: Sequence[Event]) -> None:
        """Write events down. What is already there is dropped: a trial that is started again repeats its steps.

        That is metrics of a step that a run has passed, and the end of a run that has ended and not begun again.
        """
        last_step, ended = dict(self._last_step), set(self._ended)
        lines = [f"{event.to_line()}\n" for event in events if _is_new(event, last_step, ended)]
        before = self._events.stat().st_size
        try:
            with self._events.open("ab") as file:
                file.write("".join(lines).encode())
        except OSError:
            os.truncate(self._events, before)  # on a full disk, not half a line that the next would be written behind
            raise
        self._last_step, self._ended = last_step, ended

    def pending(self, limit: int) -> tuple[list[Event], int]:
        """The oldest unconfirmed events, at most `limit`, and the offset that confirms them."""
        events: list[Event] = []
        with self._events.open("rb") as file:
            file.seek(self.confirmed)
            end = self.confirmed
            for line in file:
                if len(events) == limit or not line.endswith(b"\n"):
                    break
                events.append(Event.from_line(line.decode()))
                end += len(line)
        return events, end

    def confirm(self, offset: int) -> None:
        """Note that MLflow holds everything before the offset."""
        partial = self._offset_file.with_suffix(".partial")
        partial.write_text(str(offset))
        partial.replace(self._offset_file)
        self.confirmed = offset

    @property
    def size(self) -> int:
        """Bytes not yet confirmed."""
        return self._events.stat().st_size - self.confirmed

    def _read_confirmed(self) -> int:
        """The offset; 0 where a crash spoilt it, for MLflow takes what it is told twice for once."""
        try:
            offset = int(self._offset_file.read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return offset if offset <= self._events.stat().st_size else 0

    def _repair(self) -> None:
        self._events.touch()
        content = self._events.read_bytes()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            os.truncate(self._events, whole)


def _is_new(event: Event, last_step: dict[str, int], ended: set[str]) -> bool:
    """Whether an event says something new after those before it, and a note of it for those to come."""
    if isinstance(event, RunMetrics):
        if event.step <= last_step.get(event.key, 0):
            return False
        last_step[event.key] = event.step
    elif isinstance(event, RunStart):
        ended.discard(event.key)
    elif isinstance(event, RunEnd):
        if event.key in ended:
            return False
        ended.add(event.key)
    return True
