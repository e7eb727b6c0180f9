"""From a frame or a parquet file to a schema and one shard: columns chosen, eras sorted, values checked."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from alignray.data.columns import Request, resolve
from alignray.data.layout import BINS, Matrix, Schema, Shard, code_moments, offsets_of
from alignray.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS_AT_ONCE = 64
"""Parquet columns decoded together: enough to keep every core busy, few enough to be small beside the panel."""


@dataclass(frozen=True, slots=True)
class Source:
    """A table whose columns are read on demand.

    Attributes:
        name: What messages call it.
        types: The Arrow type of each column.
        read: Reads some columns as a ``pyarrow.Table``.
    """

    name: str
    types: dict[str, Any]
    read: Callable[[Sequence[str]], Any]


@dataclass(frozen=True, slots=True)
class _Eras:
    """The rows of a table, sorted into eras.

    Attributes:
        labels: The label of each era, in time order.
        codes: The index of each row's era, ``[N]``, in the table's order.
        order: The table's rows sorted by era, ``[N]``, or all of them as they are.
    """

    labels: tuple[str, ...]
    codes: npt.NDArray[np.intp]
    order: npt.NDArray[np.intp] | slice

    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each era begins among the sorted rows, ``[E + 1]``."""
        return offsets_of(np.bincount(self.codes))

    def of_first(self, rows: npt.NDArray[np.bool_]) -> str:
        """The label of the first row that is marked."""
        return self.labels[int(self.codes[np.argmax(rows)])]


def load_frame(df: pd.DataFrame, request: Request) -> tuple[Schema, Shard]:
    """Load a frame; see ``Panel.from_frame``."""
    import pyarrow as pa

    name = "the frame"
    levels = [
        level
        for level in df.index.names
        if level is not None and level in (request.era, request.id) and level not in df.columns
    ]
    df = df.reset_index(level=levels) if levels else df
    schema = resolve([column for column in df.columns if isinstance(column, str)], request, name)
    wanted = list(dict.fromkeys([*_labels_of(schema), *schema.features, *schema.factors]))
    try:
        table = pa.Table.from_pandas(df[wanted], preserve_index=False)
    except pa.ArrowException as error:
        raise DataError(f"{name}: a column mixes types; give each column one ({_line(error)})") from error
    return load_table(Source(name, dict(zip(wanted, table.schema.types, strict=True)), table.select), schema)


def load_parquet(path: str | os.PathLike[str], request: Request) -> tuple[Schema, Shard]:
    """Load a parquet file; see ``Panel.from_parquet``."""
    name = str(path)
    if not Path(path).is_file():
        raise DataError(
            f"{name}: {'a folder' if Path(path).is_dir() else 'no such file'}; expected a parquet file "
            "(a folder of shards is opened by open_shards)"
        )
    with opened_parquet(name) as file:
        arrow = file.schema_arrow
        schema = resolve(arrow.names, request, name)
        types = dict(zip(arrow.names, arrow.types, strict=True))
        return load_table(Source(name, types, lambda columns: file.read(list(columns))), schema)


@contextmanager
def opened_parquet(path: str) -> Iterator[Any]:
    """A ``pyarrow.parquet.ParquetFile``; what goes wrong while it is read is a DataError that names it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a parquet file, or cut short; write it again ({_line(error)})") from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())


def _labels_of(schema: Schema) -> list[str]:
    """The columns that are neither features nor factors."""
    return [column for column in (schema.era, schema.target, schema.id) if column is not None]


def load_table(source: Source, schema: Schema) -> tuple[Schema, Shard]:
    """Read, sort and check all the columns of a schema; it gains its bins."""
    eras = _read_eras(source, schema.era)
    _require_numbers(source, (*schema.features, schema.target))
    schema = replace(schema, bins=BINS if _are_integers(source, schema.features) else None)
    apart = schema.factor_columns() is None
    shard = Shard(
        eras=eras.labels,
        offsets=eras.offsets(),
        features=_read_matrix(source, schema.features, eras, coded=schema.bins is not None),
        factors=_read_factors(source, schema, eras) if apart else None,
        target=_read_target(source, schema.target, eras),
        ids=None if schema.id is None else _read_ids(source, schema.id, eras),
    )
    return schema, shard


def _read_eras(source: Source, column: str) -> _Eras:
    import pandas as pd
    import pyarrow as pa

    values = source.read([column]).column(0)
    if not len(values):
        raise DataError(f"{source.name}: no rows; expected at least one")
    if pa.types.is_dictionary(values.type) and not values.type.ordered:
        values = values.cast(values.type.value_type)  # else the eras would be sorted as their categories happen to be
    series = values.to_pandas()
    if series.isna().any():
        raise DataError(
            f"{source.name}: column {column!r} has no era in row {int(series.isna().argmax())}; drop such rows"
        )
    try:
        codes, uniques = pd.factorize(series, sort=True)
    except TypeError as error:
        raise DataError(f"{source.name}: column {column!r} cannot be sorted ({_line(error)})") from error
    labels = tuple(_label(value) for value in uniques)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        _refuse_unpadded(labels, column, source.name)
    in_order = bool(np.all(codes[1:] >= codes[:-1]))
    return _Eras(labels, codes, slice(None) if in_order else np.argsort(codes, kind="stable"))


def _label(value: Any) -> str:
    """An era as a string; a date without its midnight."""
    return value.isoformat().removesuffix("T00:00:00") if hasattr(value, "isoformat") else str(value)


def _refuse_unpadded(labels: Sequence[str], column: str, source: str) -> None:
    """Raise DataError where sorting the labels as text puts a later number first: training would see the future."""
    matches = [re.fullmatch(r"(\D*)(\d+)", label) for label in labels]
    numbers = [(match[1], int(match[2])) for match in matches if match is not None]
    if len(numbers) < len(labels) or numbers == sorted(numbers):
        return
    wrong = next(i for i in range(1, len(numbers)) if numbers[i] < numbers[i - 1])
    raise DataError(
        f"{source}: column {column!r} is text that sorts {labels[wrong - 1]!r} before {labels[wrong]!r}; "
        "pad the numbers with zeros or make them integers"
    )


def _require_numbers(source: Source, columns: Sequence[str]) -> None:
    import pyarrow as pa

    for column in columns:
        kind = source.types[column]
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
            raise DataError(
                f"{source.name}: column {column!r} is {kind}, expected integers or floats; cast it or leave it out"
            )


def _are_integers(source: Source, columns: Sequence[str]) -> bool:
    import pyarrow as pa

    return all(pa.types.is_integer(source.types[column]) for column in columns)


def _read_matrix(source: Source, columns: Sequence[str], eras: _Eras, *, coded: bool) -> Matrix:
    """Read columns as int8 codes or float32 numbers ``[N, len(columns)]``."""
    shape = (len(eras.codes), len(columns))
    matrix: Matrix = np.empty(shape, np.int8) if coded else np.empty(shape, np.float32)
    convert = _codes if coded else _numbers
    for start in range(0, len(columns), _COLUMNS_AT_ONCE):
        names = columns[start : start + _COLUMNS_AT_ONCE]
        for position, values in enumerate(source.read(names).columns):
            where = f"{source.name}: column {names[position]!r}"
            matrix[:, start + position] = convert(values, eras, where)[eras.order]
    return matrix


def _read_factors(source: Source, schema: Schema, eras: _Eras) -> Matrix:
    """Read factors that are not all among the features.

    Where features are codes, so are integer factors. They stay int8 if all factors are codes; beside float factors they
    become the numbers that a batch would make of them.
    """
    _require_numbers(source, schema.factors)
    if schema.bins is None or _are_integers(source, schema.factors):
        return _read_matrix(source, schema.factors, eras, coded=schema.bins is not None)
    factors = np.empty((len(eras.codes), len(schema.factors)), np.float32)
    mean, std = code_moments(schema.bins)
    for position, column in enumerate(schema.factors):
        coded = _are_integers(source, [column])
        values = _read_matrix(source, [column], eras, coded=coded)[:, 0]
        factors[:, position] = (values - mean) / std if coded else values
    return factors


def _codes(values: Any, eras: _Eras, where: str) -> npt.NDArray[np.int8]:
    """Check integers 0 … 4; a missing one becomes the middle code."""
    codes = values.fill_null(BINS // 2).to_numpy()
    wrong = (codes < 0) | (codes >= BINS)
    if wrong.any():
        raise DataError(
            f"{where} holds {codes[np.argmax(wrong)]} in era {eras.of_first(wrong)!r}, expected codes 0 to {BINS - 1}; "
            "bin it, or cast the features to float to use them as they are"
        )
    return np.asarray(codes, np.int8)


def _numbers(values: Any, eras: _Eras, where: str) -> npt.NDArray[np.float32]:
    """Check finite numbers."""
    numbers = _floats(values)
    wrong = ~np.isfinite(numbers)
    if wrong.any():
        raise DataError(
            f"{where} holds {numbers[np.argmax(wrong)]} in era {eras.of_first(wrong)!r}, "
            "expected finite float32 numbers; fill it or drop the rows"
        )
    return numbers


def _read_target(source: Source, column: str, eras: _Eras) -> npt.NDArray[np.float32]:
    """Read the targets ``[N]``, NaN where one is missing."""
    target = _floats(source.read([column]).column(0))
    wrong = np.isinf(target)
    if wrong.any():
        raise DataError(
            f"{source.name}: column {column!r} holds {target[np.argmax(wrong)]} in era {eras.of_first(wrong)!r}, "
            "expected finite float32 targets, or missing ones"
        )
    # One NaN for all: some differ in their bits, and the digest would tell them apart.
    return np.where(np.isnan(target), np.float32(np.nan), target)[eras.order]


def _floats(values: Any) -> npt.NDArray[np.float32]:
    """Numbers as float32, NaN where one is missing."""
    import pyarrow as pa

    # Unsafe, because a safe cast refuses integers beyond 2²⁴; what overflows becomes inf, which the callers refuse.
    return np.asarray(values.cast(pa.float32(), safe=False).to_numpy(), np.float32)


def _read_ids(source: Source, column: str, eras: _Eras) -> npt.NDArray[np.str_]:
    """Read the names of the rows ``[N]``, as text of a fixed width, which pickles without a copy."""
    import pandas as pd
    import pyarrow as pa

    where = f"{source.name}: column {column!r}"
    values = source.read([column]).column(0)
    try:
        texts = values.cast(pa.string())
    except pa.ArrowException as error:
        raise DataError(f"{where} is {values.type}, expected names that can be written as text") from error
    if texts.null_count:
        raise DataError(f"{where} has {texts.null_count} rows without a name; name them, or pass id=None")
    ids = texts.to_numpy().astype(np.str_)
    twice = pd.DataFrame({"era": eras.codes, "id": ids}).duplicated().to_numpy()
    if twice.any():
        raise DataError(f"{where} holds {str(ids[np.argmax(twice)])!r} twice in era {eras.of_first(twice)!r}; drop one")
    return np.asarray(ids[eras.order])
