"""Opening shards: the manifest is read, the files are mapped, and no number is touched that was verified before."""

from __future__ import annotations

import hashlib
import os

from alignray.data.panel import Origin, Panel
from alignray.data.shards.arrow import open_shard
from alignray.data.shards.folders import Folder, LocalFolder, RemoteFolder, cache_home, folder_at, locked, reported
from alignray.data.shards.manifest import MANIFEST, REPAIR, Entry, Manifest
from alignray.data.shards.verifying import require_files, verify_files
from alignray.errors import DataError

_CHUNK = 1 << 23
"""Bytes that are fetched at a time."""


def open_shards(folder: str | os.PathLike[str], *, verify: bool = True) -> Panel:
    """Open the shards in a folder; every number stays in the mapped files until a batch asks for it.

    The first opening on a machine reads everything and compares it with the checksums in the manifest. A stamp beside
    the manifest (or in the user's cache, if the folder is read-only) remembers this, so that the next one reads only
    files that have changed since. Shards behind a URL are first fetched into the user's cache, once.

    Args:
        folder: What ``write_shards`` wrote: a path, or a URL that ``pyarrow.fs`` or fsspec opens.
        verify: Whether to do so. Otherwise the manifest and the files' sizes alone are checked.

    Raises:
        DataError: The manifest or a shard is missing, damaged, or of another format; the message names it.
    """
    place = folder_at(folder)
    manifest = _read(place)
    local = place if isinstance(place, LocalFolder) else _fetched(place, manifest)
    require_files(local.path, manifest)
    if verify:
        verify_files(local.path, manifest)
    panel = Panel(manifest.schema, tuple(open_shard(local.path / entry.file, entry) for entry in manifest.entries))
    if verify:
        # What the property would compute: the files are those that the digest was computed of.
        vars(panel)["digest"] = manifest.digest
    # A URL stays one: each machine has a cache of its own.
    origin = str(local.path.resolve()) if local is place else os.fspath(folder)
    return panel.opened_from(Origin(origin, 0, panel.num_eras))


def read_manifest(folder: str | os.PathLike[str]) -> Manifest:
    """What is in a folder of shards, none of which is read.

    Raises:
        DataError: The manifest is missing, damaged, or of another format.
    """
    return _read(folder_at(folder))


def _read(place: Folder) -> Manifest:
    name = place.name(MANIFEST)
    raw = place.read(MANIFEST)
    if raw is None:
        raise DataError(
            f"{name}: missing; expected a folder that write_shards has finished (a parquet file is sharded first)"
        )
    return Manifest.decode(raw, name)


def _fetched(place: RemoteFolder, manifest: Manifest) -> LocalFolder:
    """The shards in the user's cache, where those that are not there yet are put first.

    Raises:
        DataError: One cannot be fetched, or is not what the manifest says.
    """
    cache = LocalFolder(cache_home() / "shards" / manifest.sha256)
    with reported(str(cache.path), "shards cannot be fetched there"):
        cache.path.mkdir(parents=True, exist_ok=True)
        with locked(cache.path, wait=True):  # of many processes one fetches, and the others wait for it
            lacking = [entry for entry in manifest.entries if not (cache.path / entry.file).is_file()]
            if lacking:
                cache.clear_unfinished()
            for entry in lacking:
                _fetch(place, cache, entry)
    return cache


def _fetch(place: RemoteFolder, cache: LocalFolder, entry: Entry) -> None:
    """Copy one file that is what the manifest says."""
    name, sha256 = place.name(entry.file), hashlib.sha256()
    failed = f"cannot be fetched to {cache.path}"
    with reported(name, failed), place.open(entry.file) as source, cache.create(entry.file) as file:
        while chunk := source.read(_CHUNK):
            sha256.update(chunk)
            file.write(chunk)
        if sha256.hexdigest() != entry.sha256:
            raise DataError(
                f"{name}: altered, cut short, or of another panel: its SHA-256 is not the manifest's; {REPAIR}"
            )
