"""How a panel lies in memory: its columns' names, and contiguous groups of eras as plain numpy arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from alignray.errors import DataError

Matrix: TypeAlias = "npt.NDArray[np.int8] | npt.NDArray[np.float32]"
"""Coded (int8) or plain (float32) columns, ``[N, d]``."""

BINS = 5
"""The bins of the features that are loaded or made here; Numerai's have as many."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """What a panel's columns are called, and how its features are stored.

    Attributes:
        era: The column that tells the eras apart.
        target: The column to predict; empty where none was read.
        id: The column that names a row, or None.
        features: The d columns that a network reads.
        factors: The k columns that a decision is neutralised against; often the features, or some of them.
        bins: Features are int8 codes ``0 … bins − 1`` of equally filled bins; None: they are float32 numbers.
    """

    era: str
    target: str
    id: str | None
    features: tuple[str, ...]
    factors: tuple[str, ...]
    bins: int | None

    def factor_columns(self) -> list[int] | None:
        """Where each factor stands among the features, or None if one is not there."""
        position = {name: column for column, name in enumerate(self.features)}
        if not position.keys() >= set(self.factors):
            return None
        return [position[name] for name in self.factors]


def offsets_of(lengths: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Where each of several consecutive pieces begins, and where the last one ends, ``[len(lengths) + 1]``."""
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def code_moments(bins: int) -> tuple[float, float]:
    """The mean and the standard deviation of the codes ``0 … bins − 1``, each as frequent as the others."""
    return (bins - 1) / 2, ((bins**2 - 1) / 12) ** 0.5


_ARRAYS: dict[str, tuple[int, tuple[type[np.generic], ...]]] = {
    "features": (2, (np.int8, np.float32)),
    "factors": (2, (np.int8, np.float32)),
    "target": (1, (np.float32,)),
    "ids": (1, (np.str_, np.object_)),
}
"""The number of axes and the element types that each array of a shard may have."""


@dataclass(frozen=True, slots=True, eq=False, kw_only=True, repr=False)
class Shard:
    """A contiguous group of E eras with N rows in all.

    The arrays are never written to and may be read-only, so a shard can lie in a mapped file or in shared memory.

    Attributes:
        eras: The labels of the eras, in time order.
        offsets: int64 ``[E + 1]``; era e has the rows ``offsets[e]`` to ``offsets[e + 1]``.
        features: int8 codes or float32 ``[N, d]``.
        factors: int8 codes or float32 ``[N, k]``, or None: they are then taken from the features.
        target: float32 ``[N]``, NaN where it is unknown.
        ids: Strings ``[N]``, or None.

    Raises:
        DataError: The arrays do not fit each other.
    """

    eras: tuple[str, ...]
    offsets: npt.NDArray[np.int64]
    features: Matrix
    factors: Matrix | None
    target: npt.NDArray[np.float32]
    ids: npt.NDArray[np.str_] | npt.NDArray[np.object_] | None

    def __post_init__(self) -> None:
        if not self.eras or self.offsets.shape != (len(self.eras) + 1,):
            raise DataError(
                f"a shard of {len(self.eras)} eras has offsets of shape {self.offsets.shape}; "
                "expected one era or more, and one offset more than eras"
            )
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 1):
            raise DataError(f"{self}: offsets must rise from 0, so that every era has a row")
        for name, (axes, kinds) in _ARRAYS.items():
            array = getattr(self, name)
            if array is None and name in ("factors", "ids"):
                continue
            if array.ndim != axes or array.dtype.type not in kinds or not array.flags.c_contiguous:
                expected = " or ".join(kind.__name__ for kind in kinds)
                raise DataError(f"{self}: {name} must be a contiguous array of {expected} with {axes} axes")
            if len(array) != self.offsets[-1]:
                raise DataError(f"{self}: {name} has {len(array)} rows, expected {self.offsets[-1]}, the last offset")

    def __repr__(self) -> str:
        return f"Shard(eras {self.eras[0]!r} to {self.eras[-1]!r}, {self.offsets[-1]} rows)"

    @property
    def num_rows(self) -> int:
        """N, the rows of all its eras together."""
        return len(self.target)

    @property
    def nbytes(self) -> int:
        """The bytes of its arrays."""
        arrays = (self.offsets, *(getattr(self, name) for name in _ARRAYS))
        return sum(array.nbytes for array in arrays if array is not None)

    def cut(self, first: int, last: int) -> Shard:
        """The eras ``first`` to ``last − 1`` of this shard, as views of its arrays."""
        start, stop = int(self.offsets[first]), int(self.offsets[last])
        return Shard(
            eras=self.eras[first:last],
            offsets=self.offsets[first : last + 1] - start,
            features=self.features[start:stop],
            factors=None if self.factors is None else self.factors[start:stop],
            target=self.target[start:stop],
            ids=None if self.ids is None else self.ids[start:stop],
        )


def kind_of(matrix: Matrix | None) -> str:
    """How a matrix is stored, in words."""
    return "absent" if matrix is None else f"{matrix.dtype} with {matrix.shape[1]} columns"


def expected_kinds(schema: Schema, first: Shard) -> dict[str, str]:
    """How each array of a panel's shards is stored, in words: as the schema says, and factors as in the first shard."""
    coded_factors = schema.bins is not None and kind_of(first.factors).startswith("int8")
    apart = f"{'int8' if coded_factors else 'float32'} with {len(schema.factors)} columns"
    return {
        "features": f"{'float32' if schema.bins is None else 'int8'} with {len(schema.features)} columns",
        "factors": "absent" if schema.factor_columns() is not None else apart,
        "ids": "absent" if schema.id is None else "present",
    }


def require_kinds(shard: Shard, expected: dict[str, str]) -> None:
    """Raise DataError unless a shard stores its arrays as ``expected_kinds`` said."""
    ids = "absent" if shard.ids is None else "present"
    got = {"features": kind_of(shard.features), "factors": kind_of(shard.factors), "ids": ids}
    for name, kind in got.items():
        if kind != expected[name]:
            raise DataError(f"{shard}: {name} are {kind}, but the schema needs them {expected[name]}")
