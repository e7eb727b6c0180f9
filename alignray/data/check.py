"""What is in the file of a panel, and what is wrong with it: all of it, not only what comes first."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Unpack

import numpy as np
import numpy.typing as npt

from alignray.data.columns import Columns, Request
from alignray.data.digest import ContentDigest
from alignray.data.eras import Eras, read_eras
from alignray.data.layout import Schema, Shard
from alignray.data.loading import Reader
from alignray.data.shards import open_shards
from alignray.data.stream import open_file


class Problem(NamedTuple):
    """One thing that is wrong.

    Attributes:
        column: The column that has it.
        what: What is wrong.
        remedy: What to do about it.
        refused: Whether loading refuses it.
    """

    column: str
    what: str
    remedy: str
    refused: bool


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Facts:
    """What is in a panel of E eras, N rows and d features.

    Attributes:
        schema: Its columns.
        eras: The labels of the eras, in time order.
        lengths: The rows of each era, ``[E]``.
        in_order: Whether the rows are sorted by era.
        target: The targets ``[N]`` as they come, NaN where one is unknown.
        missing: How many values each feature and each factor lacks; None where that was not kept (shards).
        constant: The features that never change.
        constant_eras: In how many eras of two rows or more each feature does not change, where there are any.
        digest: The panel's digest; None where loading would refuse the file or have to sort it.
        problems: What is wrong.
    """

    schema: Schema
    eras: tuple[str, ...]
    lengths: npt.NDArray[np.int64]
    in_order: bool
    target: npt.NDArray[np.float32]
    missing: Counter[str] | None
    constant: tuple[str, ...]
    constant_eras: Counter[str]
    digest: str | None
    problems: tuple[Problem, ...]


def check(
    path: str | os.PathLike[str],
    **columns: Unpack[Columns],
) -> Facts:
    """Read a file, or a folder of shards, as loading would, and go on where loading would stop.

    The features are never whole in memory: of them a few eras are held, and the least and greatest value in each era.

    Args:
        path: The file, of a kind that ``open_stream`` knows, or the folder, whose columns are its own.
        **columns: Which columns, and how, see `alignray.data.Columns`.

    Raises:
        DataError: There is no panel to speak of: a column is missing or is no number, the eras cannot be sorted, the
            file is damaged.
        InvalidArgumentError: ``bins`` is out of range.
    """
    if Path(path).is_dir():
        return _of_shards(path)
    request = Request(**columns)
    source = open_file(path, request)
    eras = read_eras(source)
    found: dict[tuple[str, str], Problem] = {}

    def refuse(column: str, what: str, remedy: str) -> None:
        found.setdefault((column, remedy), Problem(column, what, remedy, refused=True))

    reader = Reader(source, eras, request.bins, refuse)
    survey = _Survey(reader.schema, eras.labels)
    names = []
    for shard in reader.shards(binned=eras.in_order):
        survey.add(shard, keep_digest=eras.in_order)
        if shard.ids is not None and not eras.in_order:
            names.append(shard.ids)
    if names:
        reader.refuse_doubled(np.concatenate(names))
    refused = tuple(found.values())
    return survey.facts(
        lengths=np.bincount(eras.codes),
        in_order=eras.in_order,
        missing=reader.missing,
        keep_digest=eras.in_order and not refused,
        problems=(*refused, *_out_of_order(eras, request.era)),
    )


def _of_shards(folder: str | os.PathLike[str]) -> Facts:
    panel = open_shards(folder)
    survey = _Survey(panel.schema, panel.eras)
    for shard in panel.shards:
        survey.add(shard, keep_digest=True)
    lengths = np.concatenate([np.diff(shard.offsets) for shard in panel.shards])
    return survey.facts(lengths=lengths, in_order=True, missing=None, keep_digest=True, problems=())


def _out_of_order(eras: Eras, column: str) -> tuple[Problem, ...]:
    row = eras.first_astray()
    if row is None:
        return ()
    what = f"has era {eras.labels[eras.codes[row]]!r} in row {row}, after {eras.labels[eras.codes[row - 1]]!r}"
    return (Problem(column, what, "sort the file by it to stream it; loading in memory sorts it", refused=False),)


_NO_TARGETS = ("is unknown in every row", "to train or to score, give another target")


class _Survey:
    """What is kept of shards that were read and let go; an era may come in several pieces.

    Args:
        schema: The panel's schema.
        labels: Its eras.
    """

    def __init__(self, schema: Schema, labels: tuple[str, ...]) -> None:
        self._schema, self._labels = schema, labels
        self._index = {label: index for index, label in enumerate(labels)}
        self._least: npt.NDArray[Any] | None = None
        self._most: npt.NDArray[Any] | None = None
        self._targets: list[npt.NDArray[np.float32]] = []
        self._digest: ContentDigest | None = None

    def add(self, shard: Shard, *, keep_digest: bool) -> None:
        """Look at the next shard."""
        starts, index = shard.offsets[:-1], [self._index[label] for label in shard.eras]
        if self._least is None or self._most is None:
            shape, kind = (len(self._labels), shard.features.shape[1]), shard.features.dtype
            limits = np.iinfo(np.int8) if kind == np.int8 else np.finfo(np.float32)
            self._least, self._most = np.full(shape, limits.max, kind), np.full(shape, limits.min, kind)
            self._digest = ContentDigest(self._schema, shard)
        # Not minimum and maximum, which a NaN would spread from: where loading refuses it, the survey goes on.
        np.fmin.at(self._least, index, np.fmin.reduceat(shard.features, starts, axis=0))
        np.fmax.at(self._most, index, np.fmax.reduceat(shard.features, starts, axis=0))
        self._targets.append(shard.target.copy())
        if keep_digest and self._digest is not None:
            self._digest.update(shard)

    def facts(
        self,
        *,
        lengths: npt.NDArray[np.int64],
        in_order: bool,
        missing: Counter[str] | None,
        keep_digest: bool,
        problems: tuple[Problem, ...],
    ) -> Facts:
        """All that was seen."""
        assert self._least is not None
        assert self._most is not None
        assert self._digest is not None
        names = self._schema.features
        still = self._least.min(axis=0) >= self._most.max(axis=0)
        constant = tuple(name for name, is_still in zip(names, still, strict=True) if is_still)
        often = (self._least >= self._most)[lengths > 1].sum(axis=0)
        target = np.concatenate(self._targets)
        refused = {problem.column for problem in problems if problem.refused}  # their values were not seen as they are
        remarks = [Problem(name, "never changes", "leave it out", refused=False) for name in constant]
        if np.isnan(target).all():
            remarks.append(Problem(self._schema.target, *_NO_TARGETS, refused=False))
        return Facts(
            schema=self._schema,
            eras=self._labels,
            lengths=lengths,
            in_order=in_order,
            target=target,
            missing=missing,
            constant=constant,
            constant_eras=Counter({name: int(count) for name, count in zip(names, often, strict=True) if count}),
            digest=self._digest.hexdigest() if keep_digest else None,
            problems=(*problems, *(remark for remark in remarks if remark.column not in refused)),
        )
