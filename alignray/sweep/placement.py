"""The panel in the cluster: each shard once in Ray's object store, mapped by every worker without a copy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from alignray.data import Panel, Schema, regroup

_ERAS_PER_SHARD = 256


@dataclass(frozen=True, slots=True)
class Placed:
    """A panel in the object store.

    Attributes:
        schema: The panel's schema.
        shards: Ray's references to its shards.
    """

    schema: Schema
    shards: tuple[Any, ...]

    def fetch(self) -> Panel:
        """The panel, its arrays mapped from the object store of this node."""
        import ray

        return Panel(self.schema, tuple(ray.get(list(self.shards))))


def place(panel: Panel) -> Placed:
    """Put a panel into the object store."""
    import ray

    grouped = regroup(panel, _ERAS_PER_SHARD)
    return Placed(grouped.schema, tuple(ray.put(shard) for shard in grouped.shards))
