"""CSV files as sources: what type a column has is settled by all of its rows, before any is loaded."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from alignray.data.columns import Request, resolve
from alignray.data.layout import Schema
from alignray.data.sources import Source, columns_of, reading, require_file

_BLOCK = 1 << 22
"""Bytes of a file that are parsed together; a row must fit."""

_MISSING = ["", "NaN", "nan", "NA", "N/A", "NULL", "null", "None", "<NA>"]
"""How a missing number is written; a name is missing only where nothing is written, for some are called NA."""


def open_csv(path: str | os.PathLike[str], request: Request) -> Source:
    """Open a CSV file, which is parsed once for its types and again for its rows; see ``Panel.from_csv``."""
    import pyarrow as pa

    name = require_file(path, "a CSV file")
    with reading(name, "a CSV file"):
        schema = resolve(_header(path), request, name)
        eras, numbers = _scan(path, schema)
        types = {**numbers, schema.era: eras.type, **({} if schema.id is None else {schema.id: pa.string()})}

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        with reading(name, "a CSV file"):
            for batch in _blocks(path, {column: types[column] for column in columns}):
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    def column(wanted: str) -> Any:
        if wanted == schema.era:
            return eras
        return pa.chunked_array([batch.column(0) for batch in batches([wanted], _BLOCK)], types[wanted])

    return Source(name=name, schema=schema, types=types, column=column, batches=batches)


def _header(path: str | os.PathLike[str]) -> list[str]:
    import pyarrow.csv as pc

    with pc.open_csv(_opened(path)) as reader:
        return list(reader.schema.names)


def _blocks(path: str | os.PathLike[str], types: dict[str, Any]) -> Iterator[Any]:
    """Some columns of a file, as ``pyarrow.RecordBatch``."""
    import pyarrow.csv as pc

    convert = pc.ConvertOptions(
        include_columns=list(types), column_types=types, null_values=_MISSING, strings_can_be_null=False
    )
    with pc.open_csv(_opened(path), pc.ReadOptions(block_size=_BLOCK), convert_options=convert) as reader:
        yield from reader


def _opened(path: str | os.PathLike[str]) -> Any:
    """The bytes of a file, unpacked if its name ends in ``.gz``."""
    import pyarrow as pa

    return pa.input_stream(str(path), compression="gzip" if str(path).lower().endswith(".gz") else None)


def _scan(path: str | os.PathLike[str], schema: Schema) -> tuple[Any, dict[str, Any]]:
    """Parse a whole file for its eras, a ``pyarrow.ChunkedArray``, and the types of its columns of numbers."""
    import pyarrow as pa

    ladder = [pa.int64(), pa.float64(), pa.string()]
    numbers = [column for column in columns_of(schema) if column not in (schema.era, schema.id)]
    steps, eras = dict.fromkeys(numbers, 0), []
    for batch in _blocks(path, dict.fromkeys([schema.era, *numbers], pa.string())):
        eras.append(batch.column(0))
        for column, values in zip(numbers, batch.columns[1:], strict=True):
            known = _with_nulls(values, _MISSING)
            while steps[column] < len(ladder) - 1 and not _is(known, ladder[steps[column]]):
                steps[column] += 1
    return _typed(pa.chunked_array(eras, pa.string())), {column: ladder[step] for column, step in steps.items()}


def _typed(labels: Any) -> Any:
    """Eras of text as integers, numbers, dates or times if all of them are such.

    Those that are padded with zeros, or have more digits than fit, stay text.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = _with_nulls(labels, [""])
    if pc.any(pc.match_substring_regex(labels, r"^[+-]?0\d")).as_py():
        return labels
    if _is(labels, pa.int64()):
        return labels.cast(pa.int64())
    if pc.any(pc.match_substring_regex(labels, r"^[+-]?\d{16}")).as_py():  # as floats, two of them may be one
        return labels
    for kind in (pa.float64(), pa.date32(), pa.timestamp("us")):
        if _is(labels, kind):
            return labels.cast(kind)
    return labels


def _is(values: Any, kind: Any) -> bool:
    """Whether all texts that are not missing can be read as a type."""
    import pyarrow as pa

    try:
        values.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _with_nulls(values: Any, spellings: Sequence[str]) -> Any:
    """Texts, null where they are one of some spellings."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.if_else(
        pc.is_in(values, value_set=pa.array(spellings, pa.string())), pa.scalar(None, pa.string()), values
    )
