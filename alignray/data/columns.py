"""Which columns of a table make a panel: names and patterns become a schema."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, TypedDict

from alignray.data.layout import Schema
from alignray.errors import DataError


class Columns(TypedDict, total=False):
    """Which columns of a table make a panel, and how; each by its name or its pattern, all of them optional.

    Attributes:
        era: The column (or index level) of the era, ``era`` unless said otherwise, of any type that sorts by time:
            zero-padded text, integers, dates, times, ordered categories.
        target: The column to predict, ``target``; missing where it is unknown. None: no target is read, for all are
            unknown.
        features: The feature columns, ``feature_*``: a glob pattern, or a list of names and patterns. If all are
            integers they are codes ``0 … bins − 1``, missing ones the middle code; otherwise all are finite numbers.
        factors: The factor columns, likewise; None means the features themselves.
        id: The column (or index level) that names a row, unique within an era. None, or no column ``id``: no names.
        bins: Features that are floats become codes of so many equally filled bins of their era: equal values share a
            bin, missing ones get the middle one. None leaves them float32; integers are then codes 0 … 4.
    """

    era: str
    target: str | None
    features: str | Sequence[str]
    factors: str | Sequence[str] | None
    id: str | None
    bins: int | None


class Request(NamedTuple):
    """`Columns` with what is meant where nothing is said."""

    era: str = "era"
    target: str | None = "target"
    features: str | Sequence[str] = "feature_*"
    factors: str | Sequence[str] | None = None
    id: str | None = "id"
    bins: int | None = None


def resolve(columns: Sequence[str], request: Request, source: str) -> Schema:
    """Find the columns that a request asks for.

    Args:
        columns: The names of the table's columns.
        request: What was asked for.
        source: What messages call the table.

    Returns:
        A schema without bins, which depend on the columns' types.

    Raises:
        DataError: A column is missing or doubled, or no column matches a pattern.
    """
    if len(set(columns)) < len(columns):
        twice = next(column for column in columns if columns.count(column) > 1)
        raise DataError(f"{source}: two columns are called {twice!r}; rename or drop one")
    for argument, column in (("era", request.era), ("target", request.target), ("id", request.id)):
        optional = argument == "id" and column == "id"  # `id` is only a habit; any other name was asked for
        if column is not None and column not in columns and not optional:
            raise DataError(f"{source}: no column {column!r}; pass {argument}= the right one of {_some(columns)}")
    row_id = request.id if request.id in columns else None
    rest = [column for column in columns if column not in (request.era, request.target, row_id)]
    features = _matching(request.features, rest, "features", source)
    if not features:
        raise DataError(f"{source}: features= names no column; pass a pattern or some of {_some(rest)}")
    factors = features if request.factors is None else _matching(request.factors, rest, "factors", source)
    return Schema(
        era=request.era, target=request.target or "", id=row_id, features=features, factors=factors, bins=None
    )


def _matching(patterns: str | Sequence[str], columns: Sequence[str], argument: str, source: str) -> tuple[str, ...]:
    """The columns that the patterns name, each once, in the order of the patterns and then of the table."""
    known = set(columns)
    names: dict[str, None] = {}
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        found = [pattern] if pattern in known else [name for name in columns if fnmatchcase(name, pattern)]
        if not found:
            raise DataError(
                f"{source}: no column matches {argument}={pattern!r} beside era, target and id; "
                f"pass some of {_some(columns)}"
            )
        names.update(dict.fromkeys(found))
    return tuple(names)


def _some(columns: Sequence[str]) -> str:
    if not columns:
        return "no columns"
    return ", ".join(map(repr, columns[:6])) + (f", … ({len(columns)} columns)" if len(columns) > 6 else "")
