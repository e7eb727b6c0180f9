"""Panels on disk: Arrow files that open without a copy, and a manifest that vouches for each of them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from alignray.data.layout import Matrix, Schema, Shard, offsets_of
from alignray.data.panel import Origin, Panel
from alignray.errors import DataError, InvalidArgumentError

MANIFEST = "manifest.json"
FORMAT = "alignray-shards"
VERSION = 1


def regroup(panel: Panel, eras_per_shard: int) -> Panel:
    """The same panel with ``eras_per_shard`` eras in each shard, the last one taking what is left.

    A new shard is a view of the old one that holds its eras; only where its eras lie in several are they copied.

    Raises:
        InvalidArgumentError: ``eras_per_shard`` is less than 1.
    """
    if eras_per_shard < 1:
        raise InvalidArgumentError(f"eras_per_shard must be at least 1, got {eras_per_shard}")
    starts = range(0, panel.num_eras, eras_per_shard)
    groups = [panel.cut(start, min(start + eras_per_shard, panel.num_eras)).shards for start in starts]
    return Panel(panel.schema, tuple(_joined(group) for group in groups))


def _joined(parts: Sequence[Shard]) -> Shard:
    """One shard of several that follow one another."""
    if len(parts) == 1:
        return parts[0]

    def whole(name: str) -> Any:
        arrays = [getattr(part, name) for part in parts]
        return None if arrays[0] is None else np.concatenate(arrays)

    return Shard(
        eras=tuple(label for part in parts for label in part.eras),
        offsets=offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        features=whole("features"),
        factors=whole("factors"),
        target=whole("target"),
        ids=whole("ids"),
    )


def write_shards(panel: Panel, folder: str | os.PathLike[str], *, eras_per_shard: int) -> Path:
    """Write a panel as ``shard-00000.arrow`` … and ``manifest.json``, which comes last and makes the folder valid.

    Each file appears whole or not at all, so a write that was cut short can be repeated.

    Args:
        panel: The panel.
        folder: Where to write; made if it is missing.
        eras_per_shard: The eras in each file.

    Returns:
        The folder.

    Raises:
        DataError: The folder holds a manifest already, or is a file.
        InvalidArgumentError: ``eras_per_shard`` is less than 1.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file; expected a folder to write shards to")
    if (folder / MANIFEST).exists():
        raise DataError(f"{folder}: holds the shards of a panel already; choose another folder, or delete this one")
    shards = regroup(panel, eras_per_shard).shards
    folder.mkdir(parents=True, exist_ok=True)
    manifest = {
        "format": FORMAT,
        "version": VERSION,
        "digest": panel.digest,
        "schema": asdict(panel.schema),
        "shards": [_write_shard(shard, folder / f"shard-{number:05d}.arrow") for number, shard in enumerate(shards)],
    }
    with _replacing(folder / MANIFEST) as file:
        file.write(json.dumps(manifest, indent=1).encode())
    return folder


def open_shards(folder: str | os.PathLike[str], *, verify: bool = True) -> Panel:
    """Open the shards in a folder; features, factors and targets stay in the mapped files.

    Args:
        folder: What ``write_shards`` wrote.
        verify: Read everything once, and compare it with the checksums in the manifest.

    Raises:
        DataError: The manifest or a shard is missing, damaged, or of a newer format; the message names it.
    """
    folder = Path(folder)
    manifest = _read_manifest(folder / MANIFEST)
    try:
        fields = manifest["schema"]
        schema = Schema(**{**fields, "features": tuple(fields["features"]), "factors": tuple(fields["factors"])})
        shards = tuple(_open_shard(folder, entry, verify=verify) for entry in manifest["shards"])
        digest = manifest["digest"]
    except (KeyError, TypeError) as error:
        raise DataError(
            f"{folder / MANIFEST}: lacks a field that it needs ({error}); write the shards again"
        ) from error
    panel = Panel(schema, shards)
    if verify and panel.digest != digest:
        raise DataError(f"{folder / MANIFEST}: altered since it was written; write the shards again")
    return panel.opened_from(Origin(str(folder.resolve()), 0, panel.num_eras))


def _write_shard(shard: Shard, path: Path) -> dict[str, Any]:
    """Write one file and return its entry in the manifest."""
    import pyarrow as pa

    batch = _record_batch(shard)
    with _replacing(path) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "sha256": _sha256(path),
        "eras": list(shard.eras),
        "offsets": shard.offsets.tolist(),
    }


def _record_batch(shard: Shard) -> Any:
    """A ``pyarrow.RecordBatch`` that shares the shard's numbers."""
    import pyarrow as pa

    def rows(matrix: Matrix) -> Any:
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), matrix.shape[1])

    era = np.repeat(np.arange(len(shard.eras), dtype=np.int32), np.diff(shard.offsets))
    columns = {
        "era": pa.DictionaryArray.from_arrays(era, pa.array(shard.eras, pa.string())),
        "target": pa.array(shard.target),
        "features": rows(shard.features),
    }
    if shard.factors is not None:
        columns["factors"] = rows(shard.factors)
    if shard.ids is not None:
        columns["id"] = pa.array(shard.ids.tolist(), pa.string())
    return pa.RecordBatch.from_pydict(columns)


def _open_shard(folder: Path, entry: dict[str, Any], *, verify: bool) -> Shard:
    """Map one file, once it is what the manifest says."""
    import pyarrow as pa

    path, eras, offsets = folder / entry["file"], tuple(entry["eras"]), np.array(entry["offsets"], np.int64)
    again = "copy it again from where it was written, or write the shards again"
    if not path.is_file():
        raise DataError(f"{path}: missing, though the manifest lists it; {again}")
    if (size := path.stat().st_size) != entry["bytes"]:
        raise DataError(f"{path}: {size} bytes, expected {entry['bytes']}: cut short, or of another panel; {again}")
    if verify and _sha256(path) != entry["sha256"]:
        raise DataError(f"{path}: altered, or of another panel: its SHA-256 is not the manifest's; {again}")
    try:
        with pa.memory_map(str(path)) as mapped:
            batch = pa.ipc.open_file(mapped).get_batch(0)
        return _shard_of(batch, eras, offsets)
    except (pa.ArrowException, KeyError) as error:
        raise DataError(f"{path}: not a shard ({error}); {again}") from error


def _shard_of(batch: Any, eras: tuple[str, ...], offsets: npt.NDArray[np.int64]) -> Shard:
    """A shard that shares the numbers of a ``pyarrow.RecordBatch``."""

    def matrix(name: str) -> Matrix:
        column = batch.column(name)
        values: Matrix = column.values.to_numpy().reshape(len(column), column.type.list_size)
        return values

    names = batch.schema.names
    return Shard(
        eras=eras,
        offsets=offsets,
        features=matrix("features"),
        factors=matrix("factors") if "factors" in names else None,
        target=batch.column("target").to_numpy(),
        ids=batch.column("id").to_numpy(zero_copy_only=False).astype(np.str_) if "id" in names else None,
    )


def _read_manifest(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DataError(
            f"{path}: missing; expected a folder that write_shards has finished (a parquet file is sharded first)"
        )
    try:
        manifest = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); write the shards again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path}: not a manifest of shards; expected a folder that write_shards wrote")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{path}: format version {manifest.get('version')}, and this alignray reads {VERSION}; upgrade alignray"
        )
    return manifest


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name once it is whole and on the disk, and leaves nothing behind if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
