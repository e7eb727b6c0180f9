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
                if schema.id in columns:
                    batch = _without_empty_names(batch, schema.id)  # noqa: PLW2901
                for start in range(0, batch.num_rows, rows):
                    yield batch.slice(start, rows)

    def column(wanted: str) -> Any:
        if wanted == schema.era:
            return eras
        return pa.chunked_array([batch.column(0) for batch in batches([wanted], _BLOCK)], types[wanted])

    return Source(name=name, schema=schema, types=types, column=column, batches=batches)


def _header(path: str | os.PathLike[str]) -> list[str]:
    import pyarrow.csv as pc

    with pc.open_csv(path) as reader:
        return list(reader.schema.names)


def _blocks(path: str | os.PathLike[str], types: dict[str, Any]) -> Iterator[Any]:
    """Some columns of a file, as ``pyarrow.RecordBatch``."""
    import pyarrow.csv as pc

    convert = pc.ConvertOptions(
        include_columns=list(types), column_types=types, null_values=_MISSING, strings_can_be_null=False
    )
    with pc.open_csv(path, read_options=pc.ReadOptions(block_size=_BLOCK), convert_options=convert) as reader:
        yield from reader


def _scan(path: str | os.PathLike[str], schema: Schema) -> tuple[Any, dict[str, Any]]:
    """Parse a whole file for its eras, a ``pyarrow.ChunkedArray``, and the types of its columns of numbers."""
    import pyarrow as pa

    ladder = [pa.null(), pa.int64(), pa.float64(), pa.string()]
    numbers = [column for column in columns_of(schema) if column not in (schema.era, schema.id)]
    steps, eras = dict.fromkeys(numbers, 0), []
    for batch in _blocks(path, dict.fromkeys([schema.era, *numbers], pa.string())):
        eras.append(batch.column(0))
        for column, values in zip(numbers, batch.columns[1:], strict=True):
            known = _with_nulls(values, _MISSING)
            while steps[column] < len(ladder) - 1 and not _is(known, ladder[steps[column]]):
                steps[column] += 1
    # A column of nothing but missing numbers is one of floats, as pandas would have it.
    types = {column: ladder[step] if step else pa.float64() for column, step in steps.items()}
    return _typed(pa.chunked_array(eras, pa.string())), types


def _typed(labels: Any) -> Any:
    """Eras of text as integers, numbers, dates or times if all of them are such; padded with zeros they stay text."""
    import pyarrow as pa
    import pyarrow.compute as pc

    labels = _with_nulls(labels, [""])
    if pc.any(pc.match_substring_regex(labels, r"^[+-]?0\d")).as_py():
        return labels
    for kind in (pa.int64(), pa.float64(), pa.date32(), pa.timestamp("us")):
        if _is(labels, kind):
            return labels.cast(kind)
    return labels


def _is(values: Any, kind: Any) -> bool:
    """Whether all texts can be read as a type; as null, if all are missing."""
    import pyarrow as pa

    if pa.types.is_null(kind):
        return bool(values.null_count == len(values))
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


def _without_empty_names(batch: Any, column: str | None) -> Any:
    position = batch.schema.get_field_index(column)
    return batch.set_column(position, column, _with_nulls(batch.column(position), [""]))
