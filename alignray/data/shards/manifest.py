"""The manifest of a folder of shards: what is in each file, and a checksum of each and of itself."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from alignray.data.layout import Schema
from alignray.errors import DataError

MANIFEST = "manifest.json"
FORMAT = "alignray-shards"
VERSION = 2

_BLANK = "0" * 64
"""Stands where the manifest's own checksum will stand, while that is computed."""


REPAIR = "copy it again from where it was written (in the cache: delete it), or write the shards again"
"""What messages advise where a file is not what was written."""

SHARD_NAME = re.compile(r"shard-\d{5,}\.arrow")


def shard_name(number: int) -> str:
    """The name of a panel's file ``number``."""
    return f"shard-{number:05d}.arrow"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One file of shards.

    Attributes:
        file: Its name.
        bytes: Its size.
        sha256: Its SHA-256, in hexadecimal.
        eras: The labels of its eras, in time order.
        offsets: Where each era begins among its rows, and where the last one ends.
    """

    file: str
    bytes: int
    sha256: str
    eras: tuple[str, ...]
    offsets: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is in a folder of shards.

    Attributes:
        digest: The panel's digest.
        schema: The panel's schema.
        entries: Its files, in time order.
    """

    digest: str
    schema: Schema
    entries: tuple[Entry, ...]

    @property
    def num_eras(self) -> int:
        """The number of eras."""
        return sum(len(entry.eras) for entry in self.entries)

    @property
    def num_rows(self) -> int:
        """The rows of all the eras together."""
        return sum(entry.offsets[-1] for entry in self.entries)

    @property
    def num_bytes(self) -> int:
        """The bytes of all the files together, but for the manifest."""
        return sum(entry.bytes for entry in self.entries)

    @cached_property
    def sha256(self) -> str:
        """The SHA-256 that the manifest states of itself, in hexadecimal: of its text with zeros in this place."""
        return _sha256(self._blank())

    def encode(self) -> bytes:
        """The manifest as JSON that states its own SHA-256."""
        return self._blank().replace(_BLANK.encode(), self.sha256.encode(), 1)

    @staticmethod
    def decode(raw: bytes, name: str) -> Manifest:
        """Read a manifest, every byte of which is checked.

        Args:
            raw: The file's content.
            name: What messages call the file.

        Raises:
            DataError: It is no manifest, of another version, or altered.
        """
        try:
            plain = json.loads(raw)
        except ValueError as error:
            raise DataError(f"{name}: not JSON ({error}); write the shards again") from error
        if not isinstance(plain, dict) or plain.get("format") != FORMAT:
            raise DataError(f"{name}: not a manifest of shards; expected a folder that write_shards wrote")
        _require_version(plain.get("version"), name)
        stated = str(plain.get("sha256"))
        if _sha256(raw.replace(stated.encode(errors="replace"), _BLANK.encode(), 1)) != stated:
            raise DataError(
                f"{name}: altered since it was written: its SHA-256 is not the one that it states; {REPAIR}"
            )
        try:
            manifest = _from_plain(plain)
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{name}: lacks what it needs ({error}); write the shards again") from error
        vars(manifest)["sha256"] = stated  # what the property would compute
        return manifest

    def _blank(self) -> bytes:
        head = {"format": FORMAT, "version": VERSION, "sha256": _BLANK, "digest": self.digest}
        body = {"schema": asdict(self.schema), "shards": [asdict(entry) for entry in self.entries]}
        return json.dumps(head | body, indent=1).encode()


def _from_plain(plain: dict[str, Any]) -> Manifest:
    fields = plain["schema"]
    schema = Schema(**{**fields, "features": tuple(fields["features"]), "factors": tuple(fields["factors"])})
    entries = tuple(
        Entry(**{**entry, "eras": tuple(entry["eras"]), "offsets": tuple(entry["offsets"])})
        for entry in plain["shards"]
    )
    # A manifest may come from far away: its names must not lead out of its folder.
    strange = next((entry.file for entry in entries if not SHARD_NAME.fullmatch(entry.file)), None)
    if strange is not None:
        raise ValueError(f"{strange!r} is no shard's name")
    return Manifest(digest=plain["digest"], schema=schema, entries=entries)


def _require_version(version: object, name: str) -> None:
    if not isinstance(version, int):
        raise DataError(f"{name}: states no version of its format; write the shards again")
    if version > VERSION:
        raise DataError(
            f"{name}: format version {version} is newer than this alignray, which reads {VERSION}; upgrade alignray"
        )
    if version < VERSION:
        raise DataError(
            f"{name}: format version {version} is no longer read, only {VERSION} is; write the shards again"
        )


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
