"""How much of a prediction its factors explain, and what is left of it without them.

Source: `numerai_tools.scoring` 0.7.2, one era and one prediction at a time there; batched here.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from alignray.metrics import masked
from alignray.metrics.arguments import era_rows
from alignray.metrics.blocks import beside_factors, shift_, zero_outside_
from alignray.metrics.least_squares import RCOND, explained
from alignray.metrics.ranking import gaussian_rank, numerai_corr


def neutralize(p: Tensor, F: Tensor, *, proportion: float = 1.0, mask: Tensor | None = None) -> Tensor:
    """Subtracts from the prediction what the factors and a constant explain of it, by least squares.

    Equals `numerai_tools.scoring.neutralize`.

    Args:
        p: Predictions `[..., n]`.
        F: Factors `[..., n, k]`; they may be rank-deficient, and k may exceed n.
        proportion: The share of the explained part to subtract.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Returns:
        The neutral prediction `[..., n]`, 0 in masked rows; NaN throughout an era whose prediction is constant or
        holds NaN, or whose factors are not finite.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    p, F, mask = era_rows(mask, p=p, F=F)
    return beside_factors(partial(_neutral, proportion=proportion), p, F, mask, p.shape[-1:])


def _neutral(p: Tensor, F: Tensor, mask: Tensor, *, proportion: float = 1.0) -> Tensor:
    """Returns the neutral predictions, `[..., R, n]`."""
    fit = explained(p, F, mask)
    undefined = masked.constant(p, mask).unsqueeze(-1) | fit.isnan().any(-1, keepdim=True)
    return torch.where(mask, p - proportion * fit, 0.0).masked_fill(undefined, torch.nan)


def feature_neutral_corr(
    p: Tensor, F: Tensor, y: Tensor, *, mask: Tensor | None = None, top_bottom: int | None = None
) -> Tensor:
    """Scores by `numerai_corr` what is left of the gaussianised ranks of the prediction without the features.

    Equals `numerai_tools.scoring.feature_neutral_corr`. As there, the neutral prediction is ranked again, and rows
    without a target take part in the neutralisation but not in the correlation.

    Args:
        p: Predictions `[..., n]`.
        F: Features `[..., n, k]`.
        y: Targets `[..., n]`; NaN where there is none.
        mask: The rows that take part, bool `[..., n]`; None for all of them.
        top_bottom: See `numerai_corr`; the neutral predictions are cut.

    Returns:
        The correlation `[...]`; NaN where `numerai_corr` is, where the features explain the prediction whole, or are
        not finite.

    Raises:
        InvalidArgumentError: A shape does not fit, or `top_bottom` is not positive.
    """
    p, y, F, mask = era_rows(mask, p=p, y=y, F=F)
    neutral = beside_factors(_neutral_score, gaussian_rank(p, mask), F, mask, p.shape[-1:])
    return numerai_corr(neutral, y, mask=mask, top_bottom=top_bottom)


def _neutral_score(score: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the neutral scores, `[..., R, n]`; 0 where the features explain them whole."""
    neutral = _neutral(score, F, mask)
    # Rounding is amplified by up to 1 / RCOND. A residual below that is rounding alone, and its ranks would be noise.
    noise = torch.finfo(torch.float64).eps / RCOND * torch.linalg.vector_norm(torch.where(mask, score, 0.0), dim=-1)
    explained_whole = torch.linalg.vector_norm(neutral, dim=-1) <= noise
    return neutral.masked_fill(explained_whole.unsqueeze(-1), 0.0)


def feature_correlations(p: Tensor, F: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns Pearson's correlation of the prediction with every feature, `[..., k]`; NaN where either is constant.

    Args:
        p: Predictions `[..., n]`, not ranked.
        F: Features `[..., n, k]`.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    correlations = _correlations(*era_rows(mask, p=p, F=F))
    return correlations.masked_fill(correlations.isinf(), torch.nan)


def max_feature_correlation(p: Tensor, F: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the largest absolute correlation of the prediction with a feature, `[...]`, within [0, 1].

    Equals the second entry of what `numerai_tools.scoring.max_feature_correlation` returns. The first is the
    feature's name, which a tensor does not have: see `feature_correlations`. As there, neither side is ranked, and
    constant features are passed over.

    Args:
        p: Predictions `[..., n]`.
        F: Features `[..., n, k]`.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Returns:
        The correlation `[...]`; NaN where the prediction or every feature is constant, or where a number is not
        finite.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    sizes = _correlations(*era_rows(mask, p=p, F=F)).abs().nan_to_num(nan=-1.0, posinf=torch.inf)
    # The −1 added is the largest where no feature varies, or there is none.
    largest = torch.nn.functional.pad(sizes, (0, 1), value=-1.0).amax(-1)
    return torch.where((largest >= 0.0) & largest.isfinite(), largest, torch.nan)


@torch.no_grad()
def exposure(q: Tensor, F: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns the factor exposure of a decision scaled to length 1, ‖Fᵀq‖ / ‖q‖, `[...]`; NaN where q = 0.

    Args:
        q: Decisions `[..., n]`.
        F: Factors `[..., n, k]`.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    q, F, mask = era_rows(mask, q=q, F=F)
    q = torch.where(mask, q, 0.0)
    length: Tensor = torch.linalg.vector_norm(q, dim=-1)
    return beside_factors(_exposed, q, F, mask, ()) / length


def _exposed(q: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns ‖Fᵀq‖, `[..., R]`."""
    size: Tensor = torch.linalg.vector_norm(q @ zero_outside_(F, mask), dim=-1)
    return size


def _correlations(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the correlations, `[..., k]`: NaN where either side is constant, infinite for features not finite."""
    directions = masked.direction(p, mask).masked_fill(masked.constant(p, mask).unsqueeze(-1), torch.nan)
    return beside_factors(_correlations_of_directions, directions, F, mask, F.shape[-1:])


def _correlations_of_directions(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the correlations, `[..., R, k]`, of predictions of mean 0 and length 1, `[..., R, n]`."""
    if 0 in F.shape[-2:]:
        return p.new_full((*p.shape[:-1], F.shape[-1]), torch.nan)
    shift_(F, mask)
    products, rows = p @ F, mask.to(F.dtype)
    sums, squares = rows @ F, rows @ F.square_()
    variance = squares - sums.square() / mask.sum(-1, keepdim=True)
    correlations = (products / variance.sqrt()).clamp(-1.0, 1.0).masked_fill(squares == 0.0, torch.nan)
    return correlations.masked_fill(~squares.isfinite(), torch.inf)
