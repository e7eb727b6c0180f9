"""Panels of eras, their shards on disk, walk-forward folds, and data sets."""

from __future__ import annotations

from alignray.data import datasets
from alignray.data.batch import Batch
from alignray.data.folds import Fold, WalkForward, walk_forward
from alignray.data.layout import Schema, Shard, code_moments
from alignray.data.loader import Loader
from alignray.data.panel import Origin, Panel
from alignray.data.shards import open_shards, regroup, write_shards

__all__ = [
    "Batch",
    "Fold",
    "Loader",
    "Origin",
    "Panel",
    "Schema",
    "Shard",
    "WalkForward",
    "code_moments",
    "datasets",
    "open_shards",
    "regroup",
    "walk_forward",
    "write_shards",
]
