"""Panels of eras, their shards on disk, folds, and data sets."""

from __future__ import annotations

from alignray.data import datasets
from alignray.data.batch import Batch
from alignray.data.columns import Columns
from alignray.data.folds import Fold, Split, blocked, walk_forward
from alignray.data.layout import Schema, Shard, code_moments
from alignray.data.loader import Loader
from alignray.data.panel import Origin, Panel
from alignray.data.shards import open_shards, regroup, write_shards
from alignray.data.stream import EraStream, open_stream

__all__ = [
    "Batch",
    "Columns",
    "EraStream",
    "Fold",
    "Loader",
    "Origin",
    "Panel",
    "Schema",
    "Shard",
    "Split",
    "blocked",
    "code_moments",
    "datasets",
    "open_shards",
    "open_stream",
    "regroup",
    "walk_forward",
    "write_shards",
]
