"""What MLflow would refuse, or cut silently, made to fit: names, texts, numbers, and the size of a request."""

from __future__ import annotations

import hashlib
import json
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

# The limits of MLflow 3.17: mlflow/utils/validation.py.
METRICS_A_REQUEST = 1_000
PARAMS_A_REQUEST = TAGS_A_REQUEST = 100
_BYTES_A_REQUEST = 900_000  # of 1,000,000, the rest for what is around the values
_NAME_LENGTH = 250
_PARAM_LENGTH, _TAG_LENGTH = 6_000, 8_000
_REFUSED_IN_NAMES = re.compile(r"[^/\w.\- :]")
_SHOWN = 200

_Item = TypeVar("_Item")


def fitting_name(name: str) -> str:
    """A name that MLflow takes for a metric, a param or a tag: where it must be changed, a digest keeps it apart."""
    fitted = posixpath.normpath(_REFUSED_IN_NAMES.sub("_", name)).lstrip("/.") if name else ""
    if name and fitted == name and len(name) <= _NAME_LENGTH:
        return name
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:8]
    return f"{fitted[: _NAME_LENGTH - 9]}-{digest}"


def fitting_text(text: str) -> str:
    """A text that every database takes: half characters and NUL as Python writes them."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


@dataclass(slots=True)
class FittingValues:
    """Params or tags by fitting names, and the whole texts of those that are too long, by path.

    Attributes:
        values: What MLflow takes; for a text that is too long, its beginning and where the whole is.
        long: The artifacts that hold the whole texts.
    """

    values: dict[str, str] = field(default_factory=dict)
    long: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of_params(cls, params: Mapping[str, Any]) -> FittingValues:
        """Params, of which MLflow would silently keep 6,000 characters."""
        return cls._of(params, "params", _PARAM_LENGTH)

    @classmethod
    def of_tags(cls, tags: Mapping[str, Any]) -> FittingValues:
        """Tags, of which MLflow would silently keep 8,000 characters."""
        return cls._of(tags, "tags", _TAG_LENGTH)

    @classmethod
    def _of(cls, given: Mapping[str, Any], folder: str, limit: int) -> FittingValues:
        fitting = cls()
        for name, value in given.items():
            fitted, text = fitting_name(name), fitting_text(str(value))
            if len(text) > limit:
                path = f"{folder}/{re.sub(r'[/: ]', '_', fitted)}.txt"
                fitting.long[path] = text
                text = f"{text[:_SHOWN]}… ({len(text):,} characters: artifact {path})"
            fitting.values[fitted] = text
        return fitting


def in_requests(items: Sequence[_Item], limit: int) -> Iterator[Sequence[_Item]]:
    """Cut items into requests of at most so many, and of no more bytes than MLflow takes."""
    start = size = 0
    for position, item in enumerate(items):
        length = len(json.dumps(vars(item), default=str))
        if position > start and (position - start == limit or size + length > _BYTES_A_REQUEST):
            yield items[start:position]
            start, size = position, 0
        size += length
    if start < len(items):
        yield items[start:]
