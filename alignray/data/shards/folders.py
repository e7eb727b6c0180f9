"""Where shards lie: a folder on this machine, or one behind a URL of any file system that Arrow or fsspec knows."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeAlias

from alignray.data.shards.manifest import MANIFEST, SHARD_NAME
from alignray.errors import DataError


@dataclass(frozen=True, slots=True)
class LocalFolder:
    """A folder on this machine, which may be missing as yet."""

    path: Path

    def name(self, file: str) -> str:
        """What messages call a file."""
        return str(self.path / file)

    def read(self, file: str) -> bytes | None:
        """The content of a small file, or None if there is none.

        Raises:
            DataError: It cannot be read.
        """
        with reported(self.name(file), "cannot be read"):
            path = self.path / file
            return path.read_bytes() if path.is_file() else None

    def create(self, file: str) -> Any:
        """A context manager of a binary file that appears in the folder whole or not at all."""
        return replacing(self.path / file)

    def clear(self) -> None:
        """Delete the manifest, which would vouch for the rest, and then the shards, finished or not."""
        (self.path / MANIFEST).unlink(missing_ok=True)
        self.clear_unfinished()
        for path in self.path.iterdir():
            if SHARD_NAME.fullmatch(path.name):
                path.unlink(missing_ok=True)

    def clear_unfinished(self) -> None:
        """Delete what is left of files whose writer was killed."""
        for path in self.path.glob(".*.partial"):
            if _UNFINISHED.fullmatch(path.name):
                path.unlink(missing_ok=True)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, unless it is there, and keep other writers out; remove it again if it stays empty.

        Raises:
            DataError: It is a file, cannot be made, or another process writes to it.
        """
        if self.path.exists() and not self.path.is_dir():
            raise DataError(f"{self.path}: a file; expected a folder to write to")
        missing = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        try:
            with reported(str(self.path), "the folder cannot be made"):
                self.path.mkdir(parents=True, exist_ok=True)
            with locked(self.path):
                yield
        finally:
            for folder in missing:
                with suppress(OSError):  # it is not empty, as it should be
                    folder.rmdir()


@dataclass(frozen=True, slots=True)
class RemoteFolder:
    """A folder behind a URL.

    Attributes:
        url: The URL.
        filesystem: Its ``pyarrow.fs.FileSystem``.
        path: The folder's path there.
    """

    url: str
    filesystem: Any
    path: str

    def name(self, file: str) -> str:
        """What messages call a file."""
        return f"{self.url.rstrip('/')}/{file}"

    def read(self, file: str) -> bytes | None:
        """The content of a small file, or None if there is none.

        Raises:
            DataError: It cannot be read.
        """
        with reported(self.name(file), "cannot be read"):
            try:
                with self.open(file) as stream:
                    return bytes(stream.read())
            except FileNotFoundError:
                return None

    def open(self, file: str) -> Any:
        """A stream of a file's bytes."""
        return self.filesystem.open_input_stream(f"{self.path}/{file}", compression=None)

    def create(self, file: str) -> Any:
        """A context manager of a binary file, which appears in the folder when it is closed."""
        return self.filesystem.open_output_stream(f"{self.path}/{file}", compression=None)

    def clear(self) -> None:
        """Delete the manifest, which would vouch for the rest, and then the shards."""
        from pyarrow.fs import FileSelector

        found = self.filesystem.get_file_info(FileSelector(self.path, allow_not_found=True))
        ours = [info.base_name for info in found if info.is_file and SHARD_NAME.fullmatch(info.base_name)]
        manifest = [info.base_name for info in found if info.base_name == MANIFEST]
        for name in (*manifest, *ours):
            self.filesystem.delete_file(f"{self.path}/{name}")

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Make the folder, where the file system has such a thing. Other writers are not kept out.

        Raises:
            DataError: It cannot be made.
        """
        from pyarrow.fs import PyFileSystem

        # Object stores have no folders, and may refuse to make one; fsspec does not say which of its systems are such.
        if isinstance(self.filesystem, PyFileSystem):
            with reported(self.url, "the folder cannot be made"):
                self.filesystem.create_dir(self.path, recursive=True)
        yield


Folder: TypeAlias = LocalFolder | RemoteFolder

_UNFINISHED = re.compile(rf"\.({re.escape(MANIFEST)}|{SHARD_NAME.pattern})\.\d+\.partial")


def folder_at(folder: str | os.PathLike[str]) -> Folder:
    """The folder at a path or a URL.

    Raises:
        DataError: There is no such file system, it cannot be reached, or a package is missing that would reach it.
    """
    url = os.fspath(folder)
    if "://" not in url:
        return LocalFolder(Path(url))
    import pyarrow as pa
    from pyarrow.fs import FileSystem, LocalFileSystem

    try:
        try:
            filesystem, path = FileSystem.from_uri(url)
        except pa.ArrowInvalid:  # not one of Arrow's own
            filesystem, path = FileSystem.from_uri(f"fsspec+{url}")
    except (OSError, ImportError, ValueError) as error:
        raise DataError(
            f"{url}: its file system cannot be used ({error}); pass a path, or a URL that pyarrow.fs or fsspec opens"
        ) from error
    return LocalFolder(Path(path)) if isinstance(filesystem, LocalFileSystem) else RemoteFolder(url, filesystem, path)


def cache_home() -> Path:
    """Where this user's machine keeps what can be fetched or computed again: ``alignray`` in ``XDG_CACHE_HOME``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "alignray"


@contextmanager
def reported(name: str, failed: str) -> Iterator[None]:
    """Make of an error of the operating system one that names the file.

    Raises:
        DataError: Instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{name}: {failed} ({error.strerror or error}); see to its free space and your rights there"
        ) from error


@contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name once it is whole and on the disk, and leaves nothing behind if it fails."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a folder's lock, which ends with the process at the latest; nothing is held where there are no locks.

    Raises:
        DataError: Another process holds it, and it was not waited for.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise DataError(f"{folder}: another process writes here; wait for it, or choose another") from error
        except OSError:  # some network file systems have no locks
            pass
        yield
    finally:
        os.close(descriptor)
