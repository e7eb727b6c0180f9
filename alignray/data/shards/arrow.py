"""A shard as one Arrow record batch, and back, without a copy of its numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.data.layout import Matrix, Shard
from alignray.data.shards.manifest import REPAIR, Entry
from alignray.errors import DataError


def record_batch(shard: Shard) -> Any:
    """A ``pyarrow.RecordBatch`` that shares the shard's numbers."""
    import pyarrow as pa

    def rows(matrix: Matrix) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])

    era = np.repeat(np.arange(len(shard.eras), dtype=np.int32), np.diff(shard.offsets))
    columns = {
        "era": pa.DictionaryArray.from_arrays(era, pa.array(shard.eras, pa.string())),
        "target": pa.array(shard.target),
        "features": rows(shard.features),
    }
    if shard.factors is not None:
        columns["factors"] = rows(shard.factors)
    if shard.ids is not None:
        columns["id"] = _text(np.asarray(shard.ids, np.str_))
    fields = [pa.field(name, column.type, metadata=_ENCODING.get(name)) for name, column in columns.items()]
    return pa.RecordBatch.from_arrays(list(columns.values()), schema=pa.schema(fields))


def open_shard(path: Path, entry: Entry) -> Shard:
    """Map a file whose size is the manifest's.

    Raises:
        DataError: It is not the shard that the manifest speaks of.
    """
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as mapped:
            batch = pa.ipc.open_file(mapped).get_batch(0)
        return _shard(batch, entry)
    except (pa.ArrowException, KeyError, ValueError, OSError) as error:
        raise DataError(f"{path}: not the shard that the manifest lists ({error}); {REPAIR}") from error


_ENCODING = {"id": {"encoding": "utf-32-le, padded with zeros"}}
"""Names have a fixed width, as numpy's have: Arrow's own strings would have to be copied before a batch can be read."""


_TYPES: dict[str, npt.DTypeLike] = {"int8": "<i1", "float": "<f4"}


def _text(ids: npt.NDArray[np.str_]) -> Any:
    """Names as a column that shares their characters."""
    import pyarrow as pa

    ids = np.ascontiguousarray(ids, ids.dtype.newbyteorder("<"))
    return pa.Array.from_buffers(pa.binary(ids.itemsize), len(ids), [None, pa.py_buffer(ids)])


def _shard(batch: Any, entry: Entry) -> Shard:
    """A shard that shares the numbers of a ``pyarrow.RecordBatch``."""

    # Not Arrow's own to_numpy, which imports pandas: that takes many times as long as all the rest.
    def numbers(column: Any) -> Any:
        return np.frombuffer(column.buffers()[1], _TYPES[str(column.type)], len(column))

    def matrix(name: str) -> Matrix:
        column = batch.column(name)
        values: Matrix = numbers(column.values).reshape(len(column), column.type.list_size)
        return values

    def names(name: str) -> npt.NDArray[np.str_]:
        column = batch.column(name)
        return np.frombuffer(column.buffers()[1], f"<U{column.type.byte_width // 4}", len(column))

    present = batch.schema.names
    return Shard(
        eras=entry.eras,
        offsets=np.array(entry.offsets, np.int64),
        features=matrix("features"),
        factors=matrix("factors") if "factors" in present else None,
        target=numbers(batch.column("target")),
        ids=names("id") if "id" in present else None,
    )
