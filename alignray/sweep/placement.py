"""The panel in the cluster: one copy a node that every worker maps, in Ray's object store or in a folder of shards."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from alignray.data import Origin, Panel, Schema, Shard, open_shards, write_shards
from alignray.sweep.progress import Progress

_SHARE_OF_STORE = 0.6
"""What the panels may take of a node's object store; checkpoints and metrics pass through it as well."""

_ERAS_PER_SHARD = 256


class Placed(Protocol):
    """A panel where workers find it."""

    def fetch(self) -> Panel:
        """The panel, its arrays mapped: read-only, and shared by the workers of a node."""


@dataclass(frozen=True, slots=True)
class InStore:
    """A panel in Ray's object store.

    Attributes:
        schema: The panel's schema.
        shards: Ray's references to its shards.
    """

    schema: Schema
    shards: tuple[Any, ...]

    def fetch(self) -> Panel:
        """See `Placed.fetch`."""
        import ray

        return Panel(self.schema, tuple(ray.get(list(self.shards))))


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A panel in a folder of shards that every node sees; the kernel keeps what is read of it once a node.

    Attributes:
        origin: The folder, and which of its eras are meant.
    """

    origin: Origin

    def fetch(self) -> Panel:
        """See `Placed.fetch`. The checksums are not compared again: whoever placed the panel has opened it."""
        return open_shards(self.origin.folder, verify=False).cut(self.origin.first, self.origin.last)


def place(panels: Mapping[str, Panel], folder: Path, progress: Progress) -> dict[str, Placed]:
    """Put panels where the workers of every node can map them.

    That is Ray's object store, if all of them together take at most 60 % of the smallest one in the cluster. Otherwise
    workers map the folder of shards that a panel was opened from; a panel that was not is written to one first.

    Args:
        panels: The panels, by name.
        folder: Where shards may be written, on storage that every node sees. Those that are there already, of an
            earlier start of the same sweep, are taken as they are.
        progress: Hears it where the object store is too small.
    """
    size, room = sum(panel.nbytes for panel in panels.values()), _SHARE_OF_STORE * _smallest_store()
    if size <= room:
        return {name: _put(panel) for name, panel in panels.items()}
    placed = {name: OnDisk(panel.origin or _written(panel, folder / name)) for name, panel in panels.items()}
    where = " and ".join(dict.fromkeys(each.origin.folder for each in placed.values()))
    progress.warn(
        f"the panel takes {_gb(size)}, Ray's object store has room for {_gb(room)}: workers map the shards in {where}"
    )
    return dict(placed)


def _put(panel: Panel) -> InStore:
    import ray

    return InStore(panel.schema, tuple(ray.put(piece) for piece in _pieces(panel)))


def _pieces(panel: Panel) -> Iterator[Shard]:
    """The shards, cut where they are long, so that no object is too large; without a copy."""
    for shard in panel.shards:
        for first in range(0, len(shard.eras), _ERAS_PER_SHARD):
            piece = shard.cut(first, min(first + _ERAS_PER_SHARD, len(shard.eras)))
            # Python's strings would be copied to every worker; numpy's are mapped like the rest.
            yield piece if piece.ids is None else replace(piece, ids=piece.ids.astype(np.str_, copy=False))


def _smallest_store() -> float:
    """The bytes of the smallest object store: the panel is in that of every node whose workers read it."""
    import ray

    stores = [node["Resources"].get("object_store_memory", 0.0) for node in ray.nodes() if node["Alive"]]
    return float(min(stores))


def _written(panel: Panel, folder: Path) -> Origin:
    if not (folder / "manifest.json").exists():
        write_shards(panel, folder, eras_per_shard=_ERAS_PER_SHARD)
    return Origin(str(folder), 0, panel.num_eras)


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
