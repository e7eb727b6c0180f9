"""The synthetic panel as a folder that looks like Numerai's, at any size."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from alignray.data.datasets.synthetic import (
    NOISE,
    STABLE,
    UNSTABLE,
    Era,
    draw_eras,
    era_label,
    feature_names,
    num_pairs,
    row_ids,
    target_of,
)
from alignray.data.shards.folders import LocalFolder, reported
from alignray.errors import DataError, InvalidArgumentError

TARGETS = ("target", "target_cyrusd_20", "target_cyrusd_60")
"""What is predicted, the same under its own name, and an auxiliary target that some rows lack."""
_FILES = ("train.parquet", "validation.parquet", "live.parquet", "features.json")
"""What is written; the last one makes the folder whole."""
TEST_ERAS = 4
"""Eras of validation.parquet whose targets are not known yet: their rows are ``test``."""
_AUXILIARY_NOISE = 0.5
"""The standard deviation of what the auxiliary target's score has beyond the score, whose own is about 1."""
_AUXILIARY_MISSING = 0.02
"""The share of rows that lack the auxiliary target."""
_MEDIUM = 0.3
"""The share of the features that are in the set ``medium``, if the set ``small`` is no larger."""
_ROWS_OF_A_GROUP = 32_768
"""A row group is written once it has as many rows: few enough to hold, enough for groups to stay few."""


class _Labelled(NamedTuple):
    """An era, and what the files say of it beside its numbers."""

    label: str
    kind: str
    first_row: int
    era: Era


def write_numerai_layout(
    folder: str | os.PathLike[str],
    *,
    num_eras: int,
    rows: int,
    num_features: int,
    seed: int,
    validation_eras: int | None = None,
    stable: float = STABLE,
    unstable: float = UNSTABLE,
    noise: float = NOISE,
) -> Path:
    """Write the panel of `synthetic` as the files that Numerai offers, era by era.

    ``numerai(folder, "all", part=("train", "validation"))`` is ``synthetic(…)`` of the same arguments: the same rows
    with the same names, features and targets. There are, as at Numerai,

    - ``train.parquet``, the first eras;
    - ``validation.parquet``, the last ``validation_eras``, and after them four whose rows are ``test`` and have no
      targets;
    - ``live.parquet``, one era more, labelled ``X``, without targets;
    - ``features.json``, with the sets ``small`` (the features that make the stable signal), ``medium`` (those, and
      others up to 30 % of all) and ``all``, each within the next, and the targets. `synthetic_oracle` predicts from
      any of the three. It takes its name last: a folder that has it is whole.

    ``target_cyrusd_20`` is the target under its own name. ``target_cyrusd_60`` ranks the same score with noise of half
    its standard deviation added, and 2 % of the rows lack it.

    At most one row group, of about 33 thousand rows, is in memory, with the temporary copies that writing it takes.

    Args:
        folder: Where to write; made if it is missing.
        num_eras: The eras of train and validation together, at least 2.
        rows: As for `synthetic`, like the rest.
        num_features: The number of features.
        seed: Decides everything.
        validation_eras: How many of the eras are for validation; None for a third.
        stable: The share of the stable signal in the score's variance.
        unstable: The share of the factor returns.
        noise: The share of the label noise.

    Returns:
        The folder.

    Raises:
        InvalidArgumentError: A number is out of its range, or the shares do not add up to 1.
        DataError: The folder has one of the files already, is a file, is being written to by another process on this
            machine, or cannot be written to (a full disk, say). Nothing is left there of what was written.
    """
    if num_eras < 2:
        raise InvalidArgumentError(f"num_eras must be at least 2, got {num_eras}: one to train and one to validate on")
    validating = max(1, num_eras // 3) if validation_eras is None else validation_eras
    if not 1 <= validating < num_eras:
        raise InvalidArgumentError(f"validation_eras must be from 1 to num_eras − 1 = {num_eras - 1}, got {validating}")
    drawn = draw_eras(num_eras + TEST_ERAS + 1, rows, num_features, seed, stable, unstable, noise)
    folder = Path(folder)
    names = feature_names(num_features)
    eras = _labelled(drawn, num_eras - validating, num_eras)
    with LocalFolder(folder).writing(), _together(folder) as paths:
        _write(paths["train.parquet"], names, islice(eras, num_eras - validating), seed)
        _write(paths["validation.parquet"], names, islice(eras, validating + TEST_ERAS), seed)
        _write(paths["live.parquet"], names, eras, seed)
        description = {"feature_sets": _feature_sets(names), "targets": TARGETS}
        paths["features.json"].write_text(json.dumps(description, indent=1))
    return folder


@contextmanager
def _together(folder: Path) -> Iterator[dict[str, Path]]:
    """Where to write each file, all of which take their names at the end; if that fails, what was written is deleted.

    Raises:
        DataError: One of them is there already, or cannot be written.
    """
    there = next((name for name in reversed(_FILES) if (folder / name).exists()), None)
    if there is not None:
        raise DataError(f"{folder}: holds a {there} already; choose another folder, or delete this one")
    paths = {name: folder / f".{name}.partial" for name in _FILES}  # a killed writer's are written over
    try:
        with reported(str(folder), "cannot be written to"):
            yield paths
            for name, path in paths.items():
                path.replace(folder / name)
    finally:
        for path in paths.values():
            path.unlink(missing_ok=True)


def _labelled(drawn: Iterator[Era], train: int, known: int) -> Iterator[_Labelled]:
    """The eras as Numerai labels them: ``train`` first ones, others up to ``known``, four of test, the live one."""
    kinds = chain(["train"] * train, ["validation"] * (known - train), ["test"] * TEST_ERAS, ["live"])
    row = 0
    for number, (kind, era) in enumerate(zip(kinds, drawn, strict=True)):
        yield _Labelled("X" if kind == "live" else era_label(number), kind, row, era)
        row += len(era.target)


def _write(path: Path, names: Sequence[str], eras: Iterator[_Labelled], seed: int) -> None:
    """Write some eras as one file, each row group as soon as it is full."""
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        writer = None
        for group in _groups(eras):
            table = _table(group, names, seed)
            if writer is None:
                writer = stack.enter_context(pq.ParquetWriter(path, table.schema))
            writer.write_table(table, row_group_size=len(table))


def _groups(eras: Iterator[_Labelled]) -> Iterator[list[_Labelled]]:
    """The eras in groups, each of whole eras and just enough rows."""
    group: list[_Labelled] = []
    for one in eras:
        group.append(one)
        if sum(len(each.era.target) for each in group) >= _ROWS_OF_A_GROUP:
            yield group
            group = []
    if group:
        yield group


def _table(group: Sequence[_Labelled], names: Sequence[str], seed: int) -> Any:
    """A ``pyarrow.Table`` as pandas would write it: era, data_type, features, targets, and the index ``id``."""
    import pandas as pd
    import pyarrow as pa

    lengths = [len(one.era.target) for one in group]
    start = group[0].first_row
    index = pd.Index(row_ids(start, start + sum(lengths)), name="id")
    frame = pd.DataFrame(np.concatenate([one.era.features for one in group]), columns=list(names), index=index)
    frame.insert(0, "era", np.repeat([one.label for one in group], lengths))
    frame.insert(1, "data_type", np.repeat([one.kind for one in group], lengths))
    for position, target in enumerate(TARGETS):
        frame[target] = np.concatenate([_targets(one, seed)[position] for one in group])
    return pa.Table.from_pandas(frame)


def _targets(one: _Labelled, seed: int) -> tuple[np.ndarray, ...]:
    """The targets of an era, in the order of their names; NaN in what is not known yet."""
    if one.kind in ("test", "live"):
        return (np.full(len(one.era.target), np.nan, np.float32),) * len(TARGETS)
    rng = np.random.default_rng([seed, one.first_row, 1])
    auxiliary = target_of(one.era.score + _AUXILIARY_NOISE * rng.standard_normal(len(one.era.score)))
    auxiliary[rng.random(len(auxiliary)) < _AUXILIARY_MISSING] = np.nan
    return one.era.target, one.era.target, auxiliary


def _feature_sets(names: Sequence[str]) -> dict[str, list[str]]:
    """The sets, each taken from both ends of the features, where the stable signal is."""

    def ends(size: int) -> list[str]:
        front = (size + 1) // 2
        return [*names[:front], *names[len(names) - (size - front) :]]

    small = min(2 * num_pairs(len(names)), len(names))
    return {"small": ends(small), "medium": ends(max(small, round(_MEDIUM * len(names)))), "all": list(names)}
