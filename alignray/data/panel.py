"""The panel: all the eras of a data set, in time order."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, TypeVar, Unpack

import numpy as np
import numpy.typing as npt
import torch

from alignray.data.batch import Batch, Layout, Span, Stored, assemble
from alignray.data.columns import Columns, Request
from alignray.data.csv_source import open_csv
from alignray.data.digest import ContentDigest
from alignray.data.layout import Schema, Shard, expected_kinds, offsets_of, require_kinds
from alignray.data.loading import load
from alignray.data.sources import Source, open_arrow, open_frame, open_parquet
from alignray.data.stream import open_file
from alignray.errors import DataError, InvalidArgumentError

if TYPE_CHECKING:
    import pandas as pd


T = TypeVar("T")


class Origin(NamedTuple):
    """The eras ``first`` to ``last − 1`` of a folder of shards: what `open_shards` takes, from any working folder."""

    folder: str
    first: int
    last: int

    def cut(self, first: int, last: int) -> Origin:
        """Some of these eras, counted from the first."""
        return Origin(self.folder, self.first + first, self.first + last)


@dataclass(frozen=True, eq=False)
class Panel:
    """All the eras of a data set, in time order, as one or more shards that it shares and never copies.

    Two panels hold the same data if, and only if, they have the same ``digest``.

    Attributes:
        schema: What the columns are called and how they are stored.
        shards: The eras, in groups that follow one another in time.
        origin: Where it was opened, or None if it was not: then it is in this process's memory alone.

    Raises:
        DataError: There is no shard, a shard does not fit the schema, or two eras have the same label.
    """

    schema: Schema
    shards: tuple[Shard, ...]
    # No argument: a panel that is made of other shards than those of a folder was not opened there.
    origin: Origin | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.shards:
            raise DataError("a panel needs at least one shard, got none")
        expected = expected_kinds(self.schema, self.shards[0])
        for shard in self.shards:
            require_kinds(shard, expected)
        if len(set(self.eras)) < self.num_eras:
            twice = next(label for label in self.eras if self.eras.count(label) > 1)
            raise DataError(f"the panel has two eras {twice!r}: pass each shard once")

    def __repr__(self) -> str:
        return f"Panel({self.num_eras} eras, {self.num_rows} rows, {self.num_features} features)"

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        **columns: Unpack[Columns],
    ) -> Panel:
        """Make a panel of a frame with one row for each asset in each era.

        Args:
            df: The data. Its rows may come in any order; rows keep their order within an era.
            **columns: Which columns, and how, see `alignray.data.Columns`.

        Raises:
            DataError: A column is missing, doubled, or holds what cannot be used; the message names it.
            InvalidArgumentError: ``bins`` is out of range.
        """
        return cls._of(open_frame, df, Request(**columns))

    @classmethod
    def from_parquet(
        cls,
        path: str | os.PathLike[str],
        **columns: Unpack[Columns],
    ) -> Panel:
        """Make a panel of a parquet file; only the columns that are asked for are read.

        Args:
            path: The file.
            **columns: Which columns, and how, see `alignray.data.Columns`.

        Raises:
            DataError: The file is missing, cut short or of another kind, or as for ``from_frame``.
            InvalidArgumentError: ``bins`` is out of range.
        """
        return cls._of(open_parquet, path, Request(**columns))

    @classmethod
    def from_arrow(
        cls,
        path: str | os.PathLike[str],
        **columns: Unpack[Columns],
    ) -> Panel:
        """Make a panel of an Arrow IPC file (Feather, version 2).

        Args:
            path: The file.
            **columns: Which columns, and how, see `alignray.data.Columns`.

        Raises:
            DataError: The file is missing, cut short or of another kind, or as for ``from_frame``.
            InvalidArgumentError: ``bins`` is out of range.
        """
        return cls._of(open_arrow, path, Request(**columns))

    @classmethod
    def from_csv(
        cls,
        path: str | os.PathLike[str],
        **columns: Unpack[Columns],
    ) -> Panel:
        """Make a panel of a CSV file with a header.

        Numbers, dates and times are told by their text; eras that are padded with zeros stay text.

        Args:
            path: The file.
            **columns: Which columns, and how, see `alignray.data.Columns`.

        Raises:
            DataError: The file is missing, cut short or of another kind, or as for ``from_frame``.
            InvalidArgumentError: ``bins`` is out of range.
        """
        return cls._of(open_csv, path, Request(**columns))

    @classmethod
    def from_file(
        cls,
        path: str | os.PathLike[str],
        **columns: Unpack[Columns],
    ) -> Panel:
        """Make a panel of a parquet, Arrow or CSV file, whichever its name tells.

        Args:
            path: The file.
            **columns: Which columns, and how, see `alignray.data.Columns`.

        Raises:
            DataError: The name tells no kind, or as for ``from_parquet``.
            InvalidArgumentError: ``bins`` is out of range.
        """
        return cls._of(open_file, path, Request(**columns))

    @classmethod
    def _of(cls, opener: Callable[[T, Request], Source], table: T, request: Request) -> Panel:
        return cls(*load(opener(table, request), request.bins))

    @cached_property
    def eras(self) -> tuple[str, ...]:
        """The labels of the eras, in time order."""
        return tuple(label for shard in self.shards for label in shard.eras)

    @property
    def num_eras(self) -> int:
        """The number of eras."""
        return len(self.eras)

    @property
    def num_rows(self) -> int:
        """The rows of all the eras together."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_features(self) -> int:
        """The number of features, d."""
        return len(self.schema.features)

    @property
    def num_factors(self) -> int:
        """The number of factors, k."""
        return len(self.schema.factors)

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays."""
        return sum(shard.nbytes for shard in self.shards)

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of the schema and the content; it does not depend on how the eras are grouped."""
        digest = ContentDigest(self.schema, self.shards[0])
        for shard in self.shards:
            digest.update(shard)
        return digest.hexdigest()

    def batch(self, eras: Sequence[int] | npt.NDArray[np.integer], device: torch.device | str | None = None) -> Batch:
        """Copy some eras into tensors, side by side.

        Args:
            eras: The indices of B eras, each from 0 to ``num_eras − 1``, in any order.
            device: Where the tensors shall be; None is the CPU.

        Raises:
            InvalidArgumentError: No era is asked for, or one that the panel does not have.
        """
        if device is None or torch.device(device).type == "cpu":
            indices = self.indices(eras)
            return assemble(indices, [self.spans[era] for era in indices.tolist()], self.layout)
        return self.stored(eras).each(lambda tensor: tensor.to(device)).decoded(self.layout)

    def stored(self, eras: Sequence[int] | npt.NDArray[np.integer]) -> Stored:
        """Some eras side by side on the host, as they are stored.

        Raises:
            InvalidArgumentError: As for ``batch``.
        """
        indices = self.indices(eras)
        return Stored.of(indices, [self.spans[era] for era in indices.tolist()])

    def indices(self, eras: Sequence[int] | npt.NDArray[np.integer]) -> npt.NDArray[np.int64]:
        """Era indices as an array ``[B]``, once the panel is found to have them.

        Raises:
            InvalidArgumentError: As for ``batch``.
        """
        indices = np.asarray(eras)
        if indices.ndim != 1 or not indices.size or not np.issubdtype(indices.dtype, np.integer):
            raise InvalidArgumentError(
                f"eras must be a non-empty list of era indices, got {indices.dtype} of shape {indices.shape}"
            )
        outside = indices[(indices < 0) | (indices >= self.num_eras)]
        if outside.size:
            raise InvalidArgumentError(f"eras holds {outside[0]}, expected indices from 0 to {self.num_eras - 1}")
        return indices.astype(np.int64)

    def cut(self, first: int, last: int) -> Panel:
        """The eras ``first`` to ``last − 1`` as a panel of its own, without a copy.

        Raises:
            InvalidArgumentError: There are no such eras.
        """
        if not 0 <= first < last <= self.num_eras:
            raise InvalidArgumentError(f"first={first}, last={last} cut no eras out of {self.num_eras}")
        starts = offsets_of([len(shard.eras) for shard in self.shards]).tolist()
        shards = [
            shard.cut(max(first - start, 0), min(last, stop) - start)
            for shard, (start, stop) in zip(self.shards, pairwise(starts), strict=True)
            if start < last and first < stop
        ]
        part = Panel(self.schema, tuple(shards))
        return part if self.origin is None else part.opened_from(self.origin.cut(first, last))

    def opened_from(self, origin: Origin) -> Panel:
        """The same panel, which lies in a folder of shards and may be opened there again."""
        panel = copy(self)
        object.__setattr__(panel, "origin", origin)
        return panel

    @cached_property
    def spans(self) -> list[Span]:
        """Where each era lies."""
        return [(shard, a, b) for shard in self.shards for a, b in pairwise(shard.offsets.tolist())]

    @cached_property
    def layout(self) -> Layout:
        """How what the shards hold becomes a batch."""
        apart = self.shards[0].factors is not None
        return Layout(bins=self.schema.bins, factor_columns=None if apart else self.schema.factor_columns())
