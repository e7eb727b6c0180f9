"""Numerai's files, downloaded: numerapi says what there is and where, and the files come whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any, TypeVar, cast

from alignray.data.datasets.numerai import FEATURES, PARTS
from alignray.data.shards.folders import LocalFolder
from alignray.errors import DataError, WorkError

_ADDRESS = "query ($filename: String!) { dataset(filename: $filename) }"
"""Numerai's query for the address of a file, which is good for some minutes."""
_FILE = re.compile(r"(v\d+(?:\.\d+)*)/(\w[\w.-]*)")
_TIMEOUT_S = 60
_CHUNK = 2**20

T = TypeVar("T")


def _unwatched(name: str, done: int, total: int) -> None:
    """Says nothing."""


def download_numerai(
    folder: str | os.PathLike[str],
    *,
    version: str | None = None,
    everything: bool = False,
    on_bytes: Callable[[str, int, int], None] = _unwatched,
) -> list[Path]:
    """Download the files that `numerai` reads, ``features.json`` first.

    A file takes its name once all its bytes are there. What was cut short is kept, and goes on where it stopped if
    Numerai still has the same file; a file that is there with as many bytes as Numerai's is left as it is.

    numerapi is only asked which files there are and where: its own download (2.23's) does not check the server's
    certificate when it resumes.

    Args:
        folder: Where to; made if it is missing.
        version: The version of the data, ``v5.0`` say; None for the newest.
        everything: All the files of the version: the example predictions, benchmark models and the rest.
        on_bytes: Called with a file's name, its bytes so far, and its bytes in all.

    Returns:
        The files.

    Raises:
        WorkError: numerapi is not installed, Numerai does not answer, or a download was cut short.
        DataError: There is no such version, it lacks a file, or the folder is a file, cannot be made, or is being
            written to by another process on this machine.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder}: a file; expected a folder to download to")
    api = _api()
    offered = [match for name in _answer(api.list_datasets) if (match := _FILE.fullmatch(name))]
    versions = sorted({match[1] for match in offered}, key=lambda text: [int(part) for part in text[1:].split(".")])
    version = version or (versions[-1] if versions else "")
    names = {match[2] for match in offered if match[1] == version}
    if not names:
        raise DataError(f"version: Numerai offers no {version!r}; expected one of {', '.join(versions) or 'none'}")
    wanted = [FEATURES, *(f"{part}.parquet" for part in PARTS)]
    if absent := [name for name in wanted if name not in names]:
        raise DataError(f"version: Numerai's {version} has no {absent[0]}; choose another of {', '.join(versions)}")
    if everything:
        wanted += sorted(names.difference(wanted))
    with LocalFolder(folder).writing():  # two processes would both append to what an earlier one left
        for name in wanted:
            fetch(_address(api, f"{version}/{name}"), folder / name, on_bytes)
    return [folder / name for name in wanted]


def fetch(url: str, path: Path, on_bytes: Callable[[str, int, int], None]) -> None:
    """Download one file, going on with what an earlier call has left of it; see `download_numerai`.

    Raises:
        WorkError: The server does not answer, or the file was cut short.
    """
    try:
        with ExitStack() as stack:
            source = stack.enter_context(_opened(url))
            size, tag = int(source.headers["Content-Length"]), source.headers.get("ETag", "")
            if path.exists() and path.stat().st_size == size:
                on_bytes(path.name, size, size)
                return
            partial = _partial(path, f"{tag} {source.headers.get('Last-Modified')} {size}")
            there = partial.stat().st_size if partial.exists() else 0
            done = there if tag and there <= size else 0  # without a tag, it may be the half of another file
            if 0 < done < size:
                rest = stack.enter_context(_opened(url, {"Range": f"bytes={done}-", "If-Range": tag}))
                if rest.headers.get("Content-Range") == f"bytes {done}-{size - 1}/{size}":
                    source = rest
                else:
                    done = 0  # the server sends the whole, or has another file by now
            with partial.open("ab" if done else "wb") as file:
                while done < size and (chunk := source.read(_CHUNK)):
                    file.write(chunk)
                    done += len(chunk)
                    on_bytes(path.name, done, size)
                file.flush()
                os.fsync(file.fileno())
        if done != size:
            raise WorkError(f"{path.name}: cut short at {done} of {size} bytes; {_AGAIN}")
        partial.replace(path)
    except (OSError, HTTPException, TypeError, ValueError) as error:
        raise WorkError(f"{path.name}: cannot be downloaded ({error}); {_AGAIN}") from error


_AGAIN = "run the same again: it goes on where it stopped"


def _opened(url: str, headers: dict[str, str] | None = None) -> HTTPResponse:
    request = urllib.request.Request(url, headers=headers or {})
    return cast("HTTPResponse", urllib.request.urlopen(request, timeout=_TIMEOUT_S))


def _partial(path: Path, identity: str) -> Path:
    """Where the bytes of one file, and of no other version of it, are gathered; what is left of others is deleted."""
    partial = path.with_name(f".{path.name}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}")
    for other in path.parent.glob(f".{path.name}.*"):
        if other != partial:
            other.unlink()
    return partial


def _api() -> Any:
    """A ``numerapi.NumerAPI`` that keeps quiet."""
    try:
        from numerapi import NumerAPI
    except ImportError as error:
        raise WorkError("downloading needs numerapi, which is missing: pip install 'alignray[numerai]'") from error
    return NumerAPI(verbosity="critical", show_progress_bars=False)


def _address(api: Any, filename: str) -> str:
    """Where a file is to be had."""
    return _answer(lambda: str(api.raw_query(_ADDRESS, {"filename": filename})["data"]["dataset"]))


def _answer(ask: Callable[[], T]) -> T:
    """What Numerai answers. numerapi logs most failures and returns an empty answer, which lacks the ``data``."""
    try:
        return ask()
    except (OSError, LookupError, TypeError, ValueError) as error:
        why = "" if isinstance(error, LookupError | TypeError) else f" ({error})"
        raise WorkError(f"Numerai does not answer{why}; check the network, and run the same again") from error
