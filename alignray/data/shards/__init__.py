"""Panels on disk: Arrow files that open without a copy, and a manifest that vouches for each of them."""

from __future__ import annotations

from alignray.data.shards.grouping import regroup, regrouped
from alignray.data.shards.manifest import Manifest
from alignray.data.shards.opening import open_shards, read_manifest
from alignray.data.shards.writing import Eras, write_shards

__all__ = ["Eras", "Manifest", "open_shards", "read_manifest", "regroup", "regrouped", "write_shards"]
