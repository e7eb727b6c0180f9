"""What was predicted against what came to be."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.data import Loader, Panel
from alignray.training import Members
from alignray.trial.scoring import eras_at_once


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Predictions in bins, those of each era and member from its lowest to its highest, equally many in each bin.

    Attributes:
        rows: Rows × members in each bin ``[bins]``.
        predicted: The mean prediction of each bin ``[bins]``; NaN where it is empty.
        realised: The mean target of each bin, in standard deviations of its era, ``[bins]``; NaN likewise.
    """

    rows: npt.NDArray[np.int64]
    predicted: npt.NDArray[np.float64]
    realised: npt.NDArray[np.float64]


def calibrate(members: Members, panel: Panel, eras: Sequence[int], *, bins: int = 10) -> Calibration:
    """Sort what members predict of some eras into bins. A member whose predictions are not finite is left out there.

    Args:
        members: The trained members.
        panel: The data.
        eras: Eras of the panel, as indices.
        bins: How many.
    """
    sums = torch.zeros(3, bins, dtype=torch.float64, device=members.device)
    at_once = eras_at_once(panel)
    groups = [list(eras[start : start + at_once]) for start in range(0, len(eras), at_once)]
    with torch.no_grad():
        for batch in Loader(panel, groups, members.device):
            p = members(batch.features, batch.present).double()
            p = p[p.isfinite().flatten(1).all(1)]
            bin_of, counted = _bins_of(p, batch.mask, bins)
            y = batch.target.double().expand_as(p)
            for row, values in zip(sums, (torch.ones_like(p), p, y), strict=True):
                row.index_add_(0, bin_of[counted], values[counted])
    rows, predicted, realised = sums.cpu().numpy()
    with np.errstate(invalid="ignore"):
        return Calibration(rows.astype(np.int64), predicted / rows, realised / rows)


def _bins_of(p: Tensor, mask: Tensor, bins: int) -> tuple[Tensor, Tensor]:
    """The bin of every prediction ``[R, B, n]``, and which of them count."""
    mask = mask.expand_as(p)
    ranks = p.masked_fill(~mask, torch.inf).argsort(dim=-1, stable=True).argsort(-1)
    count = mask.sum(-1, keepdim=True).clamp(min=1)
    return (ranks * bins // count).clamp(max=bins - 1), mask
