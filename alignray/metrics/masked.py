"""Means, deviations and correlations along the last dimension, over the entries that a mask keeps.

The mask broadcasts against the values. Where it keeps nothing, a mean is NaN; the other entries may hold anything.
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the mean of the kept entries, `[...]`."""
    return torch.where(mask, values, 0.0).sum(-1) / mask.sum(-1)


def deviation(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the values less their mean, `[..., n]`; 0 in masked entries."""
    return torch.where(mask, values - mean(values, mask).unsqueeze(-1), 0.0)


def constant(values: Tensor, mask: Tensor) -> Tensor:
    """Returns where all kept entries are equal, or none is kept, or one is NaN: bool, `[...]`.

    The entries themselves are compared, since the variance of equal numbers need not round to 0.
    """
    if values.shape[-1] == 0:
        return values.new_ones(values.shape[:-1], dtype=torch.bool)
    highest = torch.where(mask, values, -torch.inf).amax(-1)
    lowest = torch.where(mask, values, torch.inf).amin(-1)
    return ~(highest > lowest)


def direction(values: Tensor, mask: Tensor) -> Tensor:
    """Returns the deviation scaled to length 1, `[..., n]`; constant entries have none.

    The inner product of two directions under one mask is their Pearson correlation.
    """
    step = deviation(values, mask)
    length: Tensor = torch.linalg.vector_norm(step, dim=-1, keepdim=True)
    return step / length


def correlation(a: Tensor, b: Tensor, mask: Tensor) -> Tensor:
    """Returns Pearson's correlation of the kept entries, `[...]`; NaN where either is constant."""
    step_a, step_b = deviation(a, mask), deviation(b, mask)
    lengths = torch.linalg.vector_norm(step_a, dim=-1) * torch.linalg.vector_norm(step_b, dim=-1)
    cosine: Tensor = (torch.linalg.vecdot(step_a, step_b) / lengths).clamp(-1.0, 1.0)
    return cosine.masked_fill(constant(a, mask) | constant(b, mask), torch.nan)
