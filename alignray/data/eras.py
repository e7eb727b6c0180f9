"""The eras of a table: their labels, their order, and which rows they have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from alignray.data.sources import Source, line_of
from alignray.errors import DataError


@dataclass(frozen=True, slots=True, eq=False)
class Eras:
    """Which era each row of a table belongs to.

    Attributes:
        labels: The label of each era, in time order.
        codes: The index of each row's era, ``[N]``, in the table's order.
    """

    labels: tuple[str, ...]
    codes: npt.NDArray[np.intp]

    @property
    def in_order(self) -> bool:
        """Whether the rows of every era follow those of the era before."""
        return self.first_astray() is None

    def first_astray(self) -> int | None:
        """The first row whose era is earlier than that of the row before, or None."""
        astray = np.diff(self.codes) < 0
        return int(np.argmax(astray)) + 1 if astray.any() else None


def read_eras(source: Source) -> Eras:
    """Read the era column alone, which is small beside the others.

    Raises:
        DataError: There is no row, a row has no era, or the eras cannot be sorted by time.
    """
    import pandas as pd
    import pyarrow as pa

    column = source.schema.era
    where = f"{source.name}: column {column!r}"
    values = source.column(column)
    if not len(values):
        raise DataError(f"{source.name}: no rows; expected at least one")
    if pa.types.is_dictionary(values.type) and not values.type.ordered:
        values = values.cast(values.type.value_type)  # else the eras would be sorted as their categories happen to be
    series = values.to_pandas()
    missing = series.isna() | (series == "")
    if missing.any():
        raise DataError(f"{where} has no era in row {int(missing.argmax())}; drop such rows")
    try:
        codes, uniques = pd.factorize(series, sort=True)
    except TypeError as error:
        raise DataError(f"{where} cannot be sorted ({line_of(error)})") from error
    labels = tuple(_label(value) for value in uniques)
    if pa.types.is_string(values.type) or pa.types.is_large_string(values.type):
        _refuse_unsortable(labels, where)
    return Eras(labels, codes)


def require_streamable(source: Source, eras: Eras) -> None:
    """Raise DataError unless whole eras come out of a table that is read from its first row to its last."""
    row = eras.first_astray()
    if row is not None:
        era, before = (eras.labels[eras.codes[index]] for index in (row, row - 1))
        raise DataError(
            f"{source.name}: column {source.schema.era!r} has era {era!r} in row {row}, after {before!r}; sort the "
            f"file by {source.schema.era!r}, or load it in memory (Panel.from_parquet, from_arrow, from_csv)"
        )


def _label(value: Any) -> str:
    """An era as a string; a date without its midnight."""
    return value.isoformat().removesuffix("T00:00:00") if hasattr(value, "isoformat") else str(value)


def _refuse_unsortable(labels: Sequence[str], where: str) -> None:
    """Raise DataError where sorting the labels as text puts a later one first: training would see the future."""
    for label in labels:
        if re.fullmatch(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}", label):
            raise DataError(f"{where} is text that does not sort by time, such as {label!r}; write dates as 2020-01-31")
    if any(re.search(r"\d\.\d", label) for label in labels):  # digits of a fraction are no number of their own
        return
    numbers = [[int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", label)] for label in labels]
    wrong = next((i for i in range(1, len(numbers)) if numbers[i] < numbers[i - 1]), None)
    if wrong is not None:
        raise DataError(
            f"{where} is text that sorts {labels[wrong - 1]!r} before {labels[wrong]!r}; "
            "pad the numbers with zeros or make them integers"
        )
