"""Numbers into equally filled bins."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

MOST_BINS = 127
"""The codes of more bins would not fit int8."""


def equal_bins(values: npt.NDArray[np.float32], bins: int) -> npt.NDArray[np.int8]:
    """Codes ``0 … bins − 1`` by rank, as many of each as can be.

    A value goes to the bin ``⌊bins (l + h) / 2n⌋``, where l of the n known values are smaller and h are not greater:
    equal values share the bin of their mean rank, and the codes of ``−values`` mirror these but for ranks on an edge.

    Args:
        values: Numbers ``[n]``, NaN where one is missing.
        bins: The number of bins.

    Returns:
        int8 codes ``[n]``; missing values get the middle one, ``bins // 2``.
    """
    missing = np.isnan(values)
    known = np.sort(values[~missing])
    codes = np.searchsorted(_least(known, bins), values, side="right").astype(np.int8) if known.size else missing
    return np.where(missing, np.int8(bins // 2), codes)


def _least(known: npt.NDArray[np.float32], bins: int) -> npt.NDArray[np.float32]:
    """The least value of each bin but the first, ``[bins − 1]``, of sorted numbers; of an empty bin, of the next one."""
    edges = 2 * len(known) * np.arange(1, bins)  # in bin b and above, bins (l + h) is edges[b − 1] or more
    # Without ties l + h = 2 i + 1 at position i, so the first such value is this one, or one of its equals, or the next.
    around = known[np.minimum(-(-edges // bins) // 2, len(known) - 1)]
    low, high = np.searchsorted(known, around, side="left"), np.searchsorted(known, around, side="right")
    after = np.append(known, np.float32(np.inf))[high]
    return np.where((low + high) * bins >= edges, around, after)
