"""Comparing shards with their checksums, once a machine: a stamp remembers which files were found to be right.

The stamp holds the size, the times of the last change of content and of inode, and the inode number of each file. What
changes a file changes one of them, short of damage below the file system; that file is then read again.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias

from alignray.data.shards.folders import cache_home, replacing
from alignray.data.shards.manifest import REPAIR, Entry, Manifest
from alignray.errors import DataError

STAMP = ".verified.json"

_State: TypeAlias = tuple[int, int, int, int]


def require_files(folder: Path, manifest: Manifest) -> None:
    """Raise DataError unless all files are there and as long as the manifest says; none is read."""
    for entry in manifest.entries:
        path = folder / entry.file
        if not path.is_file():
            raise DataError(f"{path}: missing, though the manifest lists it; {REPAIR}")
        if (size := path.stat().st_size) != entry.bytes:
            raise DataError(f"{path}: {size} bytes, expected {entry.bytes}: cut short, or of another panel; {REPAIR}")


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Compare the files with the manifest's checksums, but for those that a stamp says are right.

    Raises:
        DataError: A file is not what the manifest says.
    """
    places = [folder / STAMP, cache_home() / "verified" / f"{hashlib.sha256(bytes(folder.resolve())).hexdigest()}.json"]
    states = {entry.file: _state(folder / entry.file) for entry in manifest.entries}
    remembered = _remembered(places, manifest.sha256)
    doubtful = [entry for entry in manifest.entries if remembered.get(entry.file) != states[entry.file]]
    if not doubtful:
        return
    found = _place_and_time(places)
    _compare(folder, doubtful)
    if found is None:
        return
    place, began = found
    # A change since then has a later time. Of a file that changed within the same tick of the clock this is not sure.
    certain = {file: state for file, state in states.items() if state[2] < began}
    with suppress(OSError), replacing(place) as stamp:  # it was verified, even if that cannot be remembered
        stamp.write(json.dumps({"manifest": manifest.sha256, "files": certain}).encode())


def _compare(folder: Path, entries: Sequence[Entry]) -> None:
    """Raise DataError that names the first file whose SHA-256 is wrong."""
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        hashes = threads.map(_sha256, [folder / entry.file for entry in entries])
        for entry, sha256 in zip(entries, hashes, strict=True):
            if sha256 != entry.sha256:
                threads.shutdown(wait=False, cancel_futures=True)
                raise DataError(
                    f"{folder / entry.file}: altered, or of another panel: its SHA-256 is not the manifest's; {REPAIR}"
                )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state(path: Path) -> _State:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino


def _remembered(places: Sequence[Path], manifest: str) -> dict[str, _State]:
    """The files that were found to be right, as they were then."""
    for place in places:
        with suppress(OSError, ValueError, KeyError, TypeError, AttributeError):  # a stamp that is none is no stamp
            stamp: dict[str, Any] = json.loads(place.read_bytes())
            if stamp["manifest"] == manifest:
                return {file: tuple(state) for file, state in stamp["files"].items()}
    return {}


def _place_and_time(places: Sequence[Path]) -> tuple[Path, int] | None:
    """The first place where a stamp can be written, and the time there, by its file system's clock; in ns."""
    for place in places:
        with suppress(OSError):
            place.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=place.parent) as probe:
                return place, os.fstat(probe.fileno()).st_ctime_ns
    return None
