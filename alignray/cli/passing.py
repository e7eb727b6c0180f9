"""Eras that are counted, and shown, while they pass."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

from rich.console import Console
from rich.status import Status

from alignray.data import EraStream, Shard

_SECONDS_A_LINE = 2.0


@contextmanager
def watched(stream: EraStream) -> Iterator[EraStream]:
    """The same stream, shown while it is read: a line that is drawn in place, or plain lines without a terminal."""
    console = Console()
    status = console.status("reading") if console.is_terminal else None
    with status or nullcontext():
        yield replace(stream, shards=_counted(stream.shards, console, status))


def _counted(shards: Iterator[Shard], console: Console, status: Status | None) -> Iterator[Shard]:
    started = shown = time.monotonic()
    eras = rows = size = 0
    for shard in shards:
        yield shard
        arrays = (shard.features, shard.factors, shard.target, shard.ids)
        eras, rows = eras + len(shard.eras), rows + shard.num_rows
        size += sum(array.nbytes for array in arrays if array is not None)
        now = time.monotonic()
        if status is None and now - shown < _SECONDS_A_LINE:
            continue
        shown, seconds = now, now - started
        text = f"{eras} eras, {rows} rows, {size / 1e6:,.0f} MB, {size / 1e6 / max(seconds, 1e-3):,.0f} MB/s"
        if status is None:
            console.print(f"{seconds:6.1f} s  {text}", highlight=False, soft_wrap=True)
        else:
            status.update(text)
