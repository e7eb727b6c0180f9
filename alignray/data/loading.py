"""From a table to shards: its columns become rows and its values are checked, a group of eras at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from alignray.data.ahead import ahead
from alignray.data.bins import MOST_BINS, equal_bins
from alignray.data.eras import Eras, read_eras
from alignray.data.layout import BINS, Matrix, Schema, Shard, code_moments, offsets_of
from alignray.data.sources import Source
from alignray.errors import DataError, InvalidArgumentError

Refuse: TypeAlias = Callable[[str, str, str], None]
"""Told of a column, what is wrong with it, and the remedy; where it returns, the value is taken as missing."""

_SHARD_BYTES = 1 << 26
"""The features of a shard, at most, unless its first era alone has more."""
_BATCH_BYTES = 1 << 23
"""The features that are read together, at most: so few that they lie in a cache while columns become rows."""
_COLUMNS = 64
"""The columns of codes that become rows together: a cache line of each row."""
_FEWEST_ROWS, _MOST_ROWS = 1 << 10, 1 << 16
"""Rows that are read together, however many their features."""


def load(source: Source, bins: int | None) -> tuple[Schema, tuple[Shard, ...]]:
    """Load a whole table, its rows sorted by era; see ``Panel.from_frame``."""
    eras = read_eras(source)
    reader = Reader(source, eras, bins)
    return reader.schema, tuple(reader.shards()) if eras.in_order else (reader.sorted_shard(),)


class Reader:
    """Reads the rows of a table as shards.

    Args:
        source: The table.
        eras: Its eras.
        bins: The bins that the request asks for.
        refuse: Told of what cannot be used; None raises DataError.

    Attributes:
        schema: The table's schema, with bins.
        missing: How many values each feature and each factor lacks, in the rows that were read so far.

    Raises:
        InvalidArgumentError: ``bins`` is out of range.
        DataError: A feature, a factor or the target is no number.
    """

    def __init__(self, source: Source, eras: Eras, bins: int | None, refuse: Refuse | None = None) -> None:
        if bins is not None and not 2 <= bins <= MOST_BINS:
            raise InvalidArgumentError(f"bins must be from 2 to {MOST_BINS}, or None, got {bins}")
        features, factors = source.schema.features, source.schema.factors
        numbers = dict.fromkeys([*features, *self._targets(source.schema), *factors])
        for column in numbers:
            _require_number(source, column)
        integers = {column for column in numbers if _is_integer(source.types[column])}
        if bins is None and integers.issuperset(features):
            bins = BINS
        self.schema = replace(source.schema, bins=bins)
        self.missing: Counter[str] = Counter()
        self._source, self._eras, self._refuse = source, eras, refuse or self._raise
        self._coded = integers if bins is not None else set()
        self._binned = [at for at, name in enumerate(features) if bins is not None and name not in integers]
        self._number = np.int8 if self._coded.issuperset(features) else np.float32
        known = set(features)
        self._extra = [] if known.issuperset(factors) else [name for name in factors if name not in known]
        self._row_bytes = np.dtype(self._number).itemsize * len(features)

    @staticmethod
    def _targets(schema: Schema) -> list[str]:
        """The target's column, where there is one."""
        return [schema.target] if schema.target else []

    def shards(self, *, binned: bool = True, eras_per_shard: int | None = None) -> Iterator[Shard]:
        """All rows in the table's order: whole eras, where the eras are in order; else runs of rows of the same era.

        Args:
            binned: Whether to bin what is to be binned, for which eras must be whole.
            eras_per_shard: The eras, or runs, in each shard; None: as many as some 64 MB hold.
        """
        rows, codes = self._rows(), self._eras.codes
        starts = np.flatnonzero(np.diff(codes, prepend=-1))
        bounds = np.append(starts, len(codes))
        for first, last in _groups(bounds, _SHARD_BYTES // self._row_bytes, eras_per_shard):
            labels = tuple(self._eras.labels[code] for code in codes[starts[first:last]])
            yield self._shard(rows, labels, bounds[first : last + 1] - bounds[first], int(bounds[first]), binned=binned)

    def sorted_shard(self) -> Shard:
        """All rows as one shard, sorted by era; within an era they keep their order."""
        codes = self._eras.codes
        places = np.empty(len(codes), np.intp)
        places[np.argsort(codes, kind="stable")] = np.arange(len(codes))
        return self._shard(self._rows(), self._eras.labels, offsets_of(np.bincount(codes)), 0, places)

    def _rows(self) -> _Rows:
        schema = self.schema
        names = [] if schema.id is None else [schema.id]
        columns = [*schema.features, *self._extra, *self._targets(schema), *names]
        rows = int(np.clip(_BATCH_BYTES // self._row_bytes, _FEWEST_ROWS, _MOST_ROWS))
        # Arrow's buffers grow to powers of two; but columns just so far apart would contend for the same cache lines.
        rows = (1 << rows.bit_length() - 1) - 1
        return _Rows(self._source.name, self._source.batches(columns, rows))

    def _shard(
        self,
        rows: _Rows,
        labels: tuple[str, ...],
        offsets: npt.NDArray[np.int64],
        start: int,
        places: npt.NDArray[np.intp] | None = None,
        *,
        binned: bool = True,
    ) -> Shard:
        """The next rows as a shard.

        Args:
            rows: The rows that are left of the table.
            labels: The E eras of the shard.
            offsets: Where they begin, ``[E + 1]``.
            start: The row of the table that comes next.
            places: Where each row belongs in the shard, ``[N]``; None where they stay in their order.
            binned: Whether to bin what is to be binned.
        """
        N, d, schema = int(offsets[-1]), len(self.schema.features), self.schema
        numbers, target = np.empty((N, d), self._number), np.empty(N, np.float32)
        extra = np.empty((N, len(self._extra)), np.float32)
        names, read = [], 0
        for part in rows.take(N):
            here = slice(read, read + part.num_rows)
            there = here if places is None else places[here]
            columns, row = part.columns, start + read
            self._fill(numbers, there, schema.features, columns[:d], row)
            self._fill(extra, there, self._extra, columns[d:], row)
            target[there] = self._target(columns[d + len(self._extra)], row) if schema.target else np.nan
            if schema.id is not None:
                names.append(self._names(columns[-1], schema.id, row))
            read = here.stop
        features = self._in_bins(numbers, offsets) if binned and self._binned else numbers
        ids = None if schema.id is None else np.concatenate(names)
        if ids is not None:
            self.refuse_doubled(ids, start)
            if places is not None:
                ids[places] = ids.copy()
        return Shard(
            eras=labels,
            offsets=offsets,
            features=features,
            factors=self._factors(features, extra) if self._extra else None,
            target=target,
            ids=ids,
        )

    def _fill(self, matrix: Matrix, rows: Any, names: Sequence[str], columns: Sequence[Any], row: int) -> None:
        """Write columns, which begin with the table's row ``row``, into some rows of a matrix."""
        scattered = not isinstance(rows, slice)
        block = np.empty((len(rows), len(names)), matrix.dtype) if scattered else matrix[rows]
        for first in range(0, len(names), _COLUMNS):
            some = range(first, min(first + _COLUMNS, len(names)))
            if (codes := self._sound_codes(names[first : some.stop], columns[first : some.stop])) is not None:
                block[:, first : some.stop] = codes.T
                continue
            for position in some:
                name = names[position]
                read = self._codes if name in self._coded else self._numbers
                block[:, position] = read(name, columns[position], row)
        if scattered:
            matrix[rows] = block

    def _sound_codes(self, names: Sequence[str], columns: Sequence[Any]) -> npt.NDArray[np.integer] | None:
        """Columns of codes as the rows of a matrix; None unless all are of one type, none missing and none wrong."""
        import pyarrow as pa

        if not self._coded.issuperset(names) or len({values.type for values in columns}) > 1:
            return None
        together = pa.concat_arrays(columns)
        if together.null_count:
            return None
        codes: npt.NDArray[np.integer] = together.to_numpy().reshape(len(names), -1)
        # As an unsigned number, a negative one is larger than any code.
        largest = int(codes.view(f"u{codes.itemsize}").max())
        return codes if self.schema.bins is not None and largest < self.schema.bins else None

    def _codes(self, name: str, values: Any, row: int) -> npt.NDArray[np.integer]:
        """Check integers 0 … bins − 1; a missing one becomes the middle code."""
        assert self.schema.bins is not None
        bins = self.schema.bins
        if values.null_count:
            self.missing[name] += values.null_count
            values = values.fill_null(bins // 2)
        codes: npt.NDArray[np.integer] = values.to_numpy()
        if codes.min() < 0 or codes.max() >= bins:
            wrong = (codes < 0) | (codes >= bins)
            self._refuse(
                name,
                f"holds {codes[np.argmax(wrong)]} in era {self._era(wrong, row)!r}, expected codes 0 to {bins - 1}",
                "bin it, or cast the features to float to use them as they are",
            )
            return np.where(wrong, bins // 2, codes)
        return codes

    def _numbers(self, name: str, values: Any, row: int) -> npt.NDArray[np.float32]:
        """Check finite numbers, or missing ones where they are to be binned."""
        numbers = _floats(values)
        finite = np.isfinite(numbers)
        if finite.all():
            return numbers
        missing = np.isnan(numbers)
        self.missing[name] += int(missing.sum())
        to_bin = self.schema.bins is not None and name not in self._extra
        wrong = ~finite & ~missing if to_bin else ~finite
        if not wrong.any():
            return numbers
        self._refuse(
            name,
            f"holds {numbers[np.argmax(wrong)]} in era {self._era(wrong, row)!r}, expected finite float32 numbers",
            "fill it or drop the rows" if to_bin else "fill it, drop the rows, or bin the features (bins=)",
        )
        return np.where(finite, numbers, np.float32(np.nan))

    def _target(self, values: Any, row: int) -> npt.NDArray[np.float32]:
        """Check finite targets; NaN where one is missing."""
        target = _floats(values)
        wrong = np.isinf(target)
        if wrong.any():
            self._refuse(
                self.schema.target,
                f"holds {target[np.argmax(wrong)]} in era {self._era(wrong, row)!r}, expected finite float32 targets",
                "correct it, or leave it missing where it is unknown",
            )
        # One NaN for all: some differ in their bits, and the digest would tell them apart.
        return np.where(np.isfinite(target), target, np.float32(np.nan))

    def _names(self, values: Any, column: str, row: int) -> npt.NDArray[np.str_]:
        """Names as text of a fixed width, which pickles without a copy."""
        import pyarrow as pa

        try:
            texts = values.cast(pa.string()).fill_null("")
        except pa.ArrowException:
            self._refuse(column, f"is {values.type}, expected names that can be written as text", "pass id=None")
            return np.full(len(values), "")
        names = np.asarray(texts.to_numpy(zero_copy_only=False).astype(np.str_))
        nameless = names == ""
        if nameless.any():
            where = f"in era {self._era(nameless, row)!r}"
            self._refuse(column, f"has a row without a name {where}", "name it, or pass id=None")
        return names

    def refuse_doubled(self, names: npt.NDArray[np.str_], start: int = 0) -> None:
        """Check that the names of the rows from ``start`` on, where they have one, differ within their era."""
        import pandas as pd

        twice = pd.DataFrame({"era": self._eras.codes[start : start + len(names)], "id": names}).duplicated().to_numpy()
        twice = twice & (names != "")
        if twice.any():
            column, name = str(self.schema.id), str(names[np.argmax(twice)])
            self._refuse(column, f"holds {name!r} twice in era {self._era(twice, start)!r}", "drop one")

    def _in_bins(self, numbers: Any, offsets: npt.NDArray[np.int64]) -> npt.NDArray[np.int8]:
        """Bin the columns that are to be binned, era by era; the others are codes already."""
        assert self.schema.bins is not None
        codes: npt.NDArray[np.int8] = np.nan_to_num(numbers).clip(0, MOST_BINS).astype(np.int8)
        for start, stop in pairwise(offsets.tolist()):
            for column in self._binned:
                codes[start:stop, column] = equal_bins(numbers[start:stop, column], self.schema.bins)
        return codes

    def _factors(self, features: Matrix, extra: npt.NDArray[np.float32]) -> Matrix:
        """Factors that are not all among the features; those that are, are the features themselves.

        They stay int8 if all of them are codes; beside float factors, codes become the numbers that a batch would make
        of them.
        """
        schema = self.schema
        places = {name: (features, column) for column, name in enumerate(schema.features)}
        places |= {name: (extra, column) for column, name in enumerate(self._extra)}
        all_coded = schema.bins is not None and self._coded.issuperset(self._extra)
        factors = np.empty((len(features), len(schema.factors)), np.int8 if all_coded else np.float32)
        for position, name in enumerate(schema.factors):
            matrix, column = places[name]
            values: npt.NDArray[Any] = matrix[:, column]
            if schema.bins is not None and not all_coded and (name in self._coded or matrix is features):
                mean, std = code_moments(schema.bins)
                values = (values.astype(np.float64) - mean) / std
            factors[:, position] = values
        return factors

    def _era(self, rows: npt.NDArray[np.bool_], start: int) -> str:
        """The era of the first row that is marked, among those from the table's row ``start`` on."""
        return self._eras.labels[int(self._eras.codes[start + np.argmax(rows)])]

    def _raise(self, column: str, problem: str, remedy: str) -> None:
        raise DataError(f"{self._source.name}: column {column!r} {problem}; {remedy}")


class _Rows:
    """The rows that are left of a table; those that come next are decoded while these become rows of a shard.

    Args:
        name: What messages call the table.
        batches: Its rows, as ``pyarrow.RecordBatch``.
    """

    def __init__(self, name: str, batches: Iterator[Any]) -> None:
        self._name, self._batches = name, ahead(batches)
        self._rest: Any = None

    def take(self, count: int) -> Iterator[Any]:
        """The next rows, in one batch or more."""
        while count:
            if self._rest is None or not self._rest.num_rows:
                self._rest = next(self._batches, None)
                if self._rest is None:
                    raise DataError(f"{self._name}: lost rows while it was read; load it again once it is whole")
            part = self._rest.slice(0, count)
            self._rest = self._rest.slice(part.num_rows)
            count -= part.num_rows
            if part.num_rows:
                yield part


def _groups(bounds: npt.NDArray[np.int64], rows: int, runs: int | None) -> Iterator[tuple[int, int]]:
    """The first run of each group, and the one after its last.

    A group has ``runs`` runs, the last one what is left; None: so many rows at most, or a single run.
    """
    first, last, end = 0, 0, len(bounds) - 1
    while last < end:
        if runs is None:
            last = max(int(np.searchsorted(bounds, bounds[first] + rows, side="right")) - 1, first + 1)
        else:
            last = min(first + runs, end)
        yield first, last
        first = last


def _require_number(source: Source, column: str) -> None:
    import pyarrow as pa

    kind = source.types[column]
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise DataError(
            f"{source.name}: column {column!r} is {kind}, expected integers or floats; cast it or leave it out"
        )


def _is_integer(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(kind))


def _floats(values: Any) -> npt.NDArray[np.float32]:
    """Numbers as float32, NaN where one is missing."""
    import pyarrow as pa

    # Unsafe, because a safe cast refuses integers beyond 2²⁴; what overflows becomes inf, which the callers refuse.
    return np.asarray(values.cast(pa.float32(), safe=False).to_numpy(zero_copy_only=False), np.float32)
