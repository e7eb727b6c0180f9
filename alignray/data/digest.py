"""The digest of a panel's content, of shards that come one after another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from alignray.data.layout import Schema, Shard, kind_of


class ContentDigest:
    """SHA-256 of a panel's schema and content, told shard by shard; where one shard ends leaves no trace.

    Args:
        schema: The panel's schema.
        first: Its first shard, which is not yet told: all the others store their arrays as it does.
    """

    def __init__(self, schema: Schema, first: Shard) -> None:
        kinds = [kind_of(first.features), kind_of(first.factors)]
        self._head = json.dumps([asdict(schema), kinds]).encode()
        # A hash for each kind of array, so that where one shard ends and the next begins leaves no trace.
        self._parts = {name: hashlib.sha256() for name in ("eras", "lengths", "features", "factors", "target", "ids")}

    def update(self, shard: Shard) -> None:
        """Tell the next shard."""
        parts = self._parts
        parts["eras"].update(_terminated(shard.eras))
        parts["lengths"].update(np.diff(shard.offsets).data)
        parts["features"].update(shard.features.data)
        parts["target"].update(shard.target.data)
        if shard.factors is not None:
            parts["factors"].update(shard.factors.data)
        if shard.ids is not None:
            parts["ids"].update(_terminated(shard.ids.tolist()))

    def hexdigest(self) -> str:
        """The digest of what was told so far, in hexadecimal."""
        total = hashlib.sha256(self._head)
        for part in self._parts.values():
            total.update(part.digest())
        return total.hexdigest()


def _terminated(labels: Sequence[str]) -> bytes:
    """The labels as bytes, each closed by a character that no label holds, so that no two lists look alike."""
    return "\0".join([*labels, ""]).encode()
