"""Panels that are read era by era, and are never whole in memory."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Unpack

from alignray.data.columns import Columns, Request
from alignray.data.csv_source import open_csv
from alignray.data.eras import read_eras, require_streamable
from alignray.data.layout import Schema, Shard
from alignray.data.loading import Reader
from alignray.data.sources import Source, open_arrow, open_parquet
from alignray.errors import DataError, InvalidArgumentError

_OPENERS: dict[str, Callable[[str | os.PathLike[str], Request], Source]] = {
    ".parquet": open_parquet,
    ".pq": open_parquet,
    ".arrow": open_arrow,
    ".feather": open_arrow,
    ".ipc": open_arrow,
    ".csv": open_csv,
    ".csv.gz": open_csv,
}


@dataclass(frozen=True, slots=True, eq=False)
class EraStream:
    """A panel that is read era by era.

    Attributes:
        schema: What the columns are called and how they are stored.
        shards: Whole eras in time order, as many in a shard as was asked for; read as they are asked for, and once.
        missing: How many values each feature and each factor lacks, in the shards that were read so far.
    """

    schema: Schema
    shards: Iterator[Shard]
    missing: Counter[str]


def open_stream(
    path: str | os.PathLike[str],
    *,
    eras_per_shard: int | None = None,
    **columns: Unpack[Columns],
) -> EraStream:
    """Open a file whose rows are sorted by era, to read it a few eras at a time.

    The era column is read at once. What is wrong with the values of the others is found as they are read.

    Args:
        path: A parquet (``.parquet``, ``.pq``), Arrow (``.arrow``, ``.feather``, ``.ipc``) or CSV file (``.csv``,
            ``.csv.gz``).
        eras_per_shard: The eras in each shard of the stream: as many as ``write_shards`` is asked for, and it need not
            put them together. None: as many as some 64 MB hold.
        **columns: Which columns, and how, see `alignray.data.Columns`.

    Raises:
        DataError: The rows are not sorted by era, or as for ``Panel.from_parquet``.
        InvalidArgumentError: ``bins`` is out of range, or ``eras_per_shard`` is less than 1.
    """
    import pyarrow as pa

    if eras_per_shard is not None and eras_per_shard < 1:
        raise InvalidArgumentError(f"eras_per_shard must be at least 1, got {eras_per_shard}")
    request = Request(**columns)
    source = open_file(path, request)
    eras = read_eras(source)
    pa.default_memory_pool().release_unused()  # else this thread keeps what the era column took
    require_streamable(source, eras)
    reader = Reader(source, eras, request.bins)
    return EraStream(reader.schema, reader.shards(eras_per_shard=eras_per_shard), reader.missing)


def open_file(path: str | os.PathLike[str], request: Request) -> Source:
    """Open a file of the kind that its name tells.

    Raises:
        DataError: It tells none, or the file cannot be opened.
    """
    name = Path(path).name.lower()
    for suffix, opener in _OPENERS.items():
        if name.endswith(suffix):
            return opener(path, request)
    what = "a folder" if Path(path).is_dir() else "of no kind that is known"
    raise DataError(f"{path}: {what}; expected a file whose name ends in {', '.join(_OPENERS)}")
