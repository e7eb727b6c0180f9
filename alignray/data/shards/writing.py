"""Writing shards: eras are grouped, hashed and written as they come."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from alignray.data.ahead import ahead
from alignray.data.digest import ContentDigest
from alignray.data.layout import Schema, Shard, expected_kinds, require_kinds
from alignray.data.shards.arrow import record_batch
from alignray.data.shards.folders import Folder, LocalFolder, folder_at, reported
from alignray.data.shards.grouping import regrouped
from alignray.data.shards.manifest import MANIFEST, Entry, Manifest, shard_name
from alignray.errors import DataError


class Eras(Protocol):
    """A panel, or a stream of eras that is read while it is written.

    Attributes:
        schema: What the columns are called and how they are stored.
        shards: The eras in time order, in groups of any size; read once.
    """

    @property
    def schema(self) -> Schema: ...  # noqa: D102

    @property
    def shards(self) -> Iterable[Shard]: ...  # noqa: D102


def write_shards(panel: Eras, folder: str | os.PathLike[str], *, eras_per_shard: int) -> Path | str:
    """Write a panel as ``shard-00000.arrow`` … and ``manifest.json``, which comes last and makes the folder valid.

    Eras are written as they come, and those of the next file are read in a thread meanwhile: of a stream, what is in
    memory at a time is the eras of two files and what the stream itself holds. A write that fails removes what it
    wrote. One that is killed leaves files but no manifest, and the next write to the folder begins by removing those.

    Args:
        panel: A panel, or a stream of eras (anything with ``schema`` and iterable ``shards``).
        folder: Where to write; made if it is missing. A path, or a URL that ``pyarrow.fs`` or fsspec opens.
        eras_per_shard: The eras in each file.

    Returns:
        The folder, as a path if it is on this machine, as its URL otherwise.

    Raises:
        DataError: The folder holds a manifest already, is a file, is being written to by another process on this
            machine or cannot be written to (a full disk, say); or the eras do not fit each other.
        InvalidArgumentError: ``eras_per_shard`` is less than 1.
    """
    groups = regrouped(panel.shards, eras_per_shard)
    target = folder_at(folder)
    with _attempt(target), closing(ahead(groups)) as coming:
        manifest = _write_groups(panel.schema, coming, target)
        with _created(target, MANIFEST) as file:
            file.write(manifest.encode())
    return target.path if isinstance(target, LocalFolder) else target.url


@contextmanager
def _attempt(target: Folder) -> Iterator[None]:
    """A write to a folder, which begins with none of its files there and ends with all of them, or with none."""
    with target.writing():
        if target.read(MANIFEST) is not None:
            raise DataError(
                f"{target.name('')}: holds the shards of a panel already; choose another folder, or delete this one"
            )
        with reported(target.name(""), "what a killed write left cannot be removed"):
            target.clear()
        try:
            yield
        except BaseException:
            with suppress(OSError):  # the first error is the one to hear of
                target.clear()
            raise


def _write_groups(schema: Schema, groups: Iterator[Shard], target: Folder) -> Manifest:
    """Write a file for each group of eras."""
    first = next(groups, None)
    if first is None:
        raise DataError("a panel needs at least one era, got none")
    expected, digest = expected_kinds(schema, first), ContentDigest(schema, first)
    known: set[str] = set()
    entries: list[Entry] = []
    shard: Shard | None = first
    del first  # a group's memory is free once it is written
    while shard is not None:
        require_kinds(shard, expected)
        for label in shard.eras:
            if label in known:
                raise DataError(f"the panel has two eras {label!r}: pass each shard once")
            known.add(label)
        digest.update(shard)
        entries.append(_write_shard(shard, target, shard_name(len(entries))))
        del shard
        shard = next(groups, None)
    return Manifest(digest=digest.hexdigest(), schema=schema, entries=tuple(entries))


def _write_shard(shard: Shard, target: Folder, name: str) -> Entry:
    """Write one file and return its entry in the manifest."""
    import pyarrow as pa

    batch = record_batch(shard)
    with _created(target, name) as file, pa.ipc.new_file(file, batch.schema) as writer:
        writer.write_batch(batch)
    return Entry(
        file=name,
        bytes=file.tell(),
        sha256=file.sha256.hexdigest(),
        eras=shard.eras,
        offsets=tuple(shard.offsets.tolist()),
    )


class _HashedFile(io.RawIOBase):
    """A file that is hashed while it is written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file, self._bytes = file, 0
        self.sha256 = hashlib.sha256()

    def write(self, data: Any) -> int:
        """See `io.RawIOBase.write`."""
        self._file.write(data)
        self.sha256.update(data)
        size = memoryview(data).nbytes
        self._bytes += size
        return size

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._bytes

    def writable(self) -> bool:
        """See `io.IOBase.writable`."""
        return True


@contextmanager
def _created(target: Folder, name: str) -> Iterator[_HashedFile]:
    """A new file in a folder.

    Raises:
        DataError: It cannot be written.
    """
    with reported(target.name(name), "cannot be written"), target.create(name) as file:
        yield _HashedFile(file)
