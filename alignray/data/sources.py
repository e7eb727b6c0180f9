"""Tables whose columns are read on demand: a frame, or a parquet, Arrow or CSV file."""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alignray.data.columns import Request, resolve
from alignray.data.layout import Schema
from alignray.errors import DataError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A table and the columns of it that make a panel.

    Attributes:
        name: What messages call it.
        schema: What its columns are, without bins, which depend on their types.
        types: The Arrow type of each column of the schema.
        column: Reads one whole column, as a ``pyarrow.ChunkedArray``.
        batches: Reads some columns, in the order of the rows, as ``pyarrow.RecordBatch`` of at most so many rows.
    """

    name: str
    schema: Schema
    types: dict[str, Any]
    column: Callable[[str], Any]
    batches: Callable[[Sequence[str], int], Iterator[Any]]


def open_frame(df: pd.DataFrame, request: Request) -> Source:
    """Open a frame; see ``Panel.from_frame``."""
    import pyarrow as pa

    name = "the frame"
    levels = [
        level
        for level in df.index.names
        if level is not None and level in (request.era, request.id) and level not in df.columns
    ]
    df = df.reset_index(level=levels) if levels else df
    schema = resolve([column for column in df.columns if isinstance(column, str)], request, name)
    wanted = columns_of(schema)
    try:
        table = pa.Table.from_pandas(df[wanted], preserve_index=False)
    except (pa.ArrowException, OverflowError, TypeError) as error:
        raise DataError(f"{name}: a column mixes types; give each column one ({line_of(error)})") from error
    return Source(
        name=name,
        schema=schema,
        types=dict(zip(wanted, table.schema.types, strict=True)),
        column=table.column,
        batches=lambda columns, rows: iter(table.select(columns).to_batches(max_chunksize=rows)),
    )


def open_parquet(path: str | os.PathLike[str], request: Request) -> Source:
    """Open a parquet file; see ``Panel.from_parquet``."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        with reading(name, "a parquet file"):
            with Path(path).open("rb") as opened:
                mapped = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)
            with pq.ParquetFile(pa.BufferReader(mapped), pre_buffer=False) as file:
                read = 0
                for batch in file.iter_batches(rows, columns=list(columns)):
                    yield batch.select(columns)
                    read += batch.num_rows
                    if read >= _ROWS:
                        # What was read is copied; else all the file would count as this process's memory in the end.
                        mapped.madvise(mmap.MADV_DONTNEED)
                        read = 0

    name = require_file(path, "a parquet file")
    with reading(name, "a parquet file"):
        arrow = pq.read_schema(path)
    return source_of(name, arrow, request, batches)


def open_arrow(path: str | os.PathLike[str], request: Request) -> Source:
    """Open an Arrow IPC file; see ``Panel.from_arrow``."""
    import pyarrow as pa

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        options = pa.ipc.IpcReadOptions(included_fields=[arrow.get_field_index(column) for column in columns])
        # Mapped, because many writers make one record batch of the whole table.
        with reading(name, "an Arrow file"), pa.memory_map(str(path)) as mapped:
            file = pa.ipc.open_file(mapped, options=options)
            for number in range(file.num_record_batches):
                batch = file.get_batch(number).select(columns)
                batch.validate(full=True)  # a damaged file would be read beyond its buffers
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    name = require_file(path, "an Arrow file")
    with reading(name, "an Arrow file"), pa.memory_map(str(path)) as mapped:
        arrow = pa.ipc.open_file(mapped).schema
    return source_of(name, arrow, request, batches)


def source_of(
    name: str, arrow: Any, request: Request, batches: Callable[[Sequence[str], int], Iterator[Any]]
) -> Source:
    """The source of a file that knows its columns and their types."""
    import pyarrow as pa

    def column(wanted: str) -> Any:
        return pa.chunked_array([batch.column(0) for batch in batches([wanted], _ROWS)], types[wanted])

    schema = resolve(arrow.names, request, name)
    types = {wanted: arrow.field(wanted).type for wanted in columns_of(schema)}
    return Source(name=name, schema=schema, types=types, column=column, batches=batches)


_ROWS = 65536
"""Rows of a single column that are read together."""


def columns_of(schema: Schema) -> list[str]:
    """All the columns of a schema, each once."""
    labels = [column for column in (schema.era, schema.target, schema.id) if column]
    return list(dict.fromkeys([*labels, *schema.features, *schema.factors]))


def require_file(path: str | os.PathLike[str], kind: str) -> str:
    """What messages call a file that can be read."""
    name, path = str(path), Path(path)
    try:
        mode = path.stat().st_mode
        if stat.S_ISREG(mode):  # opening a pipe would wait for who writes to it
            path.open("rb").close()
    except FileNotFoundError as error:
        raise DataError(f"{name}: no such file; expected {kind}") from error
    except OSError as error:
        raise DataError(f"{name}: cannot be read ({error.strerror}); expected {kind}, and leave to read it") from error
    if stat.S_ISDIR(mode):
        raise DataError(f"{name}: a folder; expected {kind} (a folder of shards is opened by open_shards)")
    if not stat.S_ISREG(mode):
        raise DataError(f"{name}: a pipe or a device; expected {kind}, which is read more than once")
    return name


@contextmanager
def reading(name: str, kind: str) -> Iterator[None]:
    """What goes wrong in reading a file, as a DataError that names it."""
    import pyarrow as pa

    try:
        yield
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{name}: not {kind}, or cut short; write it again ({line_of(error)})") from error


def line_of(error: Exception) -> str:
    """An error's text on one line, of which a whole row of a file may be part."""
    text = " ".join(str(error).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


_LONGEST = 200
