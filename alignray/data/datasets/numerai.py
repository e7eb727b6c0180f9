"""Numerai's files as a panel."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

from alignray.data.columns import Request
from alignray.data.layout import BINS
from alignray.data.loading import load
from alignray.data.panel import Panel
from alignray.data.sources import reading, source_of
from alignray.errors import DataError, InvalidArgumentError

FEATURES = "features.json"
"""The file that names the sets of features and the targets; a folder that has it is Numerai's."""
PARTS = ("train", "validation", "live")

Part = Literal["train", "validation", "live"]


def numerai(
    folder: str | os.PathLike[str],
    feature_set: str = "small",
    target: str = "target",
    *,
    part: Part | Sequence[Part] = "train",
    factor_set: str | None = None,
) -> Panel:
    """Read the files of Numerai's tournament, which ``alignray data numerai`` downloads.

    The features are int8 codes 0 … 4, a missing one the middle code. Of ``validation.parquet``, the rows that are not
    ``validation`` are left out: their targets are not known yet. In ``live.parquet`` no target need be known, and its
    era may be called ``X``. Only the columns that are asked for are read, some at a time: the panel takes its own size,
    and little more while it is read.

    Args:
        folder: The folder with ``features.json`` and the files of the parts.
        feature_set: A set of ``features.json``: ``small``, ``medium``, ``all``, ``fncv3_features``, ….
        target: The target, one of those in ``features.json``, or ``target``.
        part: ``train``, ``validation`` or ``live``, or several, in time order, as one panel. Their eras must follow
            one another; the embargo between them is the folds' business, as everywhere.
        factor_set: Another set of ``features.json`` to take the factors from; None for the features themselves.

    Raises:
        DataError: The folder, a file, a set, a target or a feature is missing, or a file holds what cannot be used;
            the message names it. Or the eras of the parts overlap.
        InvalidArgumentError: There is no such part.
    """
    folder = Path(folder)
    parts: Sequence[str] = [part] if isinstance(part, str) else part
    for name in parts:
        if name not in PARTS:
            raise InvalidArgumentError(f"part: expected some of {', '.join(PARTS)}, got {name!r}")
    if not parts:
        raise InvalidArgumentError(f"part: expected some of {', '.join(PARTS)}, got none")
    sets, targets = _described(folder)
    features = _chosen(sets, feature_set, "feature_set", folder)
    factors = None if factor_set is None else _chosen(sets, factor_set, "factor_set", folder)
    request = Request(target=target, features=features, factors=factors)
    panels = [_read(folder / f"{name}.parquet", request, targets) for name in parts]
    for earlier, later in pairwise(panels):
        if not earlier.eras[-1] < later.eras[0]:
            raise DataError(
                f"{folder}: part={tuple(parts)} would have era {later.eras[0]!r} follow {earlier.eras[-1]!r}; "
                "name parts in time order, each once, and of the same version of Numerai's data"
            )
    return Panel(panels[0].schema, tuple(shard for panel in panels for shard in panel.shards))


def _described(folder: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The sets of features and the targets that features.json names."""
    path = folder / FEATURES
    if not path.is_file():
        what = "missing" if folder.is_dir() else "no such folder"
        raise DataError(
            f"{path if folder.is_dir() else folder}: {what}; download Numerai's files: alignray data numerai {folder}"
        )
    try:
        description = json.loads(path.read_bytes())
        sets = {name: list(features) for name, features in dict(description["feature_sets"]).items()}
        return sets, list(description["targets"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{path}: expected JSON with feature_sets and targets ({type(error).__name__}: {error}); "
            f"delete it and download it again: alignray data numerai {folder}"
        ) from error


def _chosen(sets: dict[str, list[str]], name: str, argument: str, folder: Path) -> list[str]:
    if name not in sets:
        raise DataError(f"{folder / FEATURES}: no set {name!r}; pass {argument}= one of {', '.join(sets)}")
    return sets[name]


def _read(path: Path, request: Request, targets: Sequence[str]) -> Panel:
    """Read one file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"{path}: missing; download it: alignray data numerai {path.parent}")
    with reading(str(path), "a parquet file"):
        schema = pq.read_schema(path)
    types, names = _types(path, schema, request, targets), set(schema.names)
    sifted = path.stem == "validation" and "data_type" in names

    def batches(columns: Sequence[str], rows: int) -> Iterator[Any]:
        # The eras are read along, as a batch without any column would not know its rows.
        there = [name for name in columns if name in names] + [request.era] + ["data_type"] * sifted
        with reading(str(path), "a parquet file"), pq.ParquetFile(path, pre_buffer=False) as file:
            for batch in file.iter_batches(rows, columns=list(dict.fromkeys(there))):
                kept = _validation(batch) if sifted else batch
                yield _prepared(kept, {name: types[name] for name in columns}, path)

    source = source_of(str(path), pa.schema(list(types.items())), request, batches)
    return Panel(*load(source, None))


def _types(path: Path, schema: Any, request: Request, targets: Sequence[str]) -> dict[str, Any]:
    """The Arrow types of the columns as they will be read, from the file's schema: all that is asked for is there."""
    import pyarrow as pa

    types = dict(zip(schema.names, schema.types, strict=True))
    wanted = dict.fromkeys([*request.features, *(request.factors or ())])
    if absent := [name for name in wanted if name not in types]:
        raise DataError(
            f"{path}: lacks {len(absent)} of the {len(wanted)} features that {FEATURES} lists, {absent[0]!r} first; "
            f"choose a smaller feature_set, or download both files again: alignray data numerai {path.parent} --all"
        )
    there = [name for name in types if name.startswith("target")]
    live = path.stem == "live"
    if request.target not in {*there, "target", *targets} or (request.target not in types and not live):
        raise DataError(f"{path}: no target {request.target!r}; pass target= one of {', '.join(there or targets)}")
    if live and pa.types.is_null(types.get(request.target, pa.null())):
        types[request.target] = pa.float32()  # absent, or a column of nulls: no target is known
    return types | dict.fromkeys(wanted, pa.int8())


def _validation(batch: Any) -> Any:
    """The rows of a batch of validation.parquet whose targets are known or were."""
    import pyarrow as pa
    import pyarrow.compute as pc

    return batch.filter(pc.equal(batch.column("data_type").cast(pa.string()), "validation"))


def _prepared(batch: Any, types: dict[str, Any], path: Path) -> Any:
    """The batch with these columns: an absent one is nulls, and codes that missing ones made floats are codes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    there, columns = dict(zip(batch.schema.names, batch.columns, strict=True)), {}
    for name, kind in types.items():
        values = there.get(name)
        if values is None:
            values = pa.nulls(batch.num_rows, kind)
        if pa.types.is_integer(kind) and pa.types.is_floating(values.type):
            values = pc.if_else(pc.is_nan(values), None, values)
        try:
            columns[name] = values if values.type == kind else values.cast(kind)
        except pa.ArrowInvalid as error:
            raise DataError(
                f"{path}: column {name!r} is {values.type} and not all codes 0 to {BINS - 1} ({error}); "
                "read it with Panel.from_parquet, which takes any numbers"
            ) from error
    return pa.RecordBatch.from_pydict(columns)
