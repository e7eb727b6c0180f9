"""The same eras in other groups."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from alignray.data.layout import Shard, offsets_of
from alignray.data.panel import Panel
from alignray.errors import InvalidArgumentError


def regroup(panel: Panel, eras_per_shard: int) -> Panel:
    """The same panel with ``eras_per_shard`` eras in each shard, the last one taking what is left.

    A new shard is a view of the old one that holds its eras; only where its eras lie in several are they copied.

    Raises:
        InvalidArgumentError: ``eras_per_shard`` is less than 1.
    """
    return Panel(panel.schema, tuple(regrouped(panel.shards, eras_per_shard)))


def regrouped(shards: Iterable[Shard], eras_per_shard: int) -> Iterator[Shard]:
    """The eras of some shards, as they come, in groups of ``eras_per_shard``; see ``regroup``.

    Raises:
        InvalidArgumentError: ``eras_per_shard`` is less than 1.
    """
    if eras_per_shard < 1:
        raise InvalidArgumentError(f"eras_per_shard must be at least 1, got {eras_per_shard}")
    return _grouped(iter(shards), eras_per_shard)


def _grouped(shards: Iterator[Shard], eras_per_shard: int) -> Iterator[Shard]:
    pending: list[Shard] = []
    lacking = eras_per_shard
    for shard in shards:
        first, num_eras = 0, len(shard.eras)
        while first < num_eras:
            last = min(first + lacking, num_eras)
            pending.append(shard.cut(first, last))
            lacking -= last - first
            first = last
            if not lacking:
                yield _joined(pending)
                pending, lacking = [], eras_per_shard
    if pending:
        yield _joined(pending)


def _joined(parts: list[Shard]) -> Shard:
    """One shard of several that follow one another; each is let go once it is copied, and no two are held twice."""
    if len(parts) == 1:
        return parts[0]

    def whole(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    def room(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.empty((offsets[-1], arrays[0].shape[1]), np.result_type(*arrays))

    offsets = offsets_of(np.concatenate([np.diff(part.offsets) for part in parts]))
    labels = tuple(label for part in parts for label in part.eras)
    features, factors, target, ids = room("features"), room("factors"), whole("target"), whole("ids")
    stop = 0
    while parts:
        part = parts.pop(0)
        start, stop = stop, stop + part.num_rows
        features[start:stop] = part.features
        if factors is not None:
            factors[start:stop] = part.factors
    return Shard(eras=labels, offsets=offsets, features=features, factors=factors, target=target, ids=ids)
