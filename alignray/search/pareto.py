"""Several metrics at once: what no other trial betters in all of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def on_front(scores: npt.ArrayLike, directions: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which points are on the Pareto front.

    Args:
        scores: A score for each point and metric, ``[n, m]``, all finite.
        directions: Of each metric, 1 where more is better, −1 where less is.

    Returns:
        ``[n]``: true where no other point is at least as good by every metric and better by one.
    """
    signed = np.asarray(scores, dtype=np.float64).reshape(-1, len(directions)) * np.asarray(directions)
    no_worse = (signed[:, None] >= signed[None]).all(axis=-1)
    better = (signed[:, None] > signed[None]).any(axis=-1)
    front: npt.NDArray[np.bool_] = ~(no_worse & better).any(axis=0)
    return front
