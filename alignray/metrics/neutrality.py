"""How much of a prediction its factors explain, and what is left of it without them.

Source: `numerai_tools.scoring` 0.7.2, one era and one prediction at a time there; batched here.
"""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.metrics import masked
from alignray.metrics.arguments import era_rows
from alignray.metrics.ranking import gaussian_rank, numerai_corr

RCOND = 1e-6
"""Singular values of the factors below this share of the largest count as 0."""


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
    neutral = torch.where(mask, p - proportion * _explained(p, F, mask), 0.0)
    undefined = masked.constant(p, mask) | ~_finite(F, mask)
    return neutral.masked_fill(undefined.unsqueeze(-1), torch.nan)


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
    score = torch.where(mask, gaussian_rank(p, mask), 0.0)
    neutral = neutralize(score, F, mask=mask)
    # Rounding is amplified by up to 1 / RCOND. A residual below that is rounding alone, and its ranks would be noise.
    noise = torch.finfo(torch.float64).eps / RCOND * torch.linalg.vector_norm(score, dim=-1, keepdim=True)
    explained_whole = torch.linalg.vector_norm(neutral, dim=-1, keepdim=True) <= noise
    return numerai_corr(neutral.masked_fill(explained_whole, 0.0), y, mask=mask, top_bottom=top_bottom)


def feature_correlations(p: Tensor, F: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Returns Pearson's correlation of the prediction with every feature, `[..., k]`; NaN where either is constant.

    Args:
        p: Predictions `[..., n]`, not ranked.
        F: Features `[..., n, k]`.
        mask: The rows that take part, bool `[..., n]`; None for all of them.

    Raises:
        InvalidArgumentError: A shape does not fit.
    """
    return _correlations(*era_rows(mask, p=p, F=F))


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
    p, F, mask = era_rows(mask, p=p, F=F)
    sizes = _correlations(p, F, mask).abs().nan_to_num(nan=-1.0)
    # The −1 added is the largest where no feature varies, or there is none.
    largest = torch.nn.functional.pad(sizes, (0, 1), value=-1.0).amax(-1)
    return torch.where((largest >= 0.0) & _finite(F, mask), largest, torch.nan)


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
    exposures = _columns_dot(torch.where(mask.unsqueeze(-1), F, 0.0), q)
    return (exposures.square().sum(-1) / q.square().sum(-1)).sqrt()


def _correlations(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    features, rows = F.mT, mask.unsqueeze(-2)
    undefined = masked.constant(features, rows) | masked.constant(p, mask).unsqueeze(-1)
    correlations = _columns_dot(masked.direction(features, rows).mT, masked.direction(p, mask))
    return correlations.clamp(-1.0, 1.0).masked_fill(undefined, torch.nan)


def _explained(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the least-squares fit of the prediction by the factors and a constant, `[..., n]`; 0 in masked rows.

    Singular values are truncated as `numpy.linalg.lstsq` truncates them. They come from the triangle R of a QR
    decomposition, so the orthogonal part of F's size is never formed; one correction of the seminormal equations
    RᵀR c = Fᵀp regains the accuracy that they lack (Björck 1987, doi:10.1016/0024-3795(87)90101-7).
    """
    design = torch.cat([F, F.new_ones((*F.shape[:-1], 1))], dim=-1)
    design = torch.where(mask.unsqueeze(-1) & design.isfinite(), design, 0.0)
    p = torch.where(mask, p, 0.0)

    triangle = torch.linalg.qr(design, mode="r").R
    _, sigma, basis = torch.linalg.svd(triangle, full_matrices=False)
    scaled = basis * torch.where(sigma > RCOND * sigma[..., :1], 1.0 / sigma, 0.0).unsqueeze(-1)
    gram_inverse = scaled.mT @ scaled

    coefficients = _columns_dot(gram_inverse, _columns_dot(design, p))
    residual = p - _columns_dot(design.mT, coefficients)
    coefficients = coefficients + _columns_dot(gram_inverse, _columns_dot(design, residual))
    return _columns_dot(design.mT, coefficients)


def _columns_dot(matrix: Tensor, vector: Tensor) -> Tensor:
    """Returns matrixᵀ vector, `[..., k]`; unlike matmul, without copying a matrix that several vectors share."""
    return torch.einsum("...nk,...n->...k", matrix, vector)


def _finite(F: Tensor, mask: Tensor) -> Tensor:
    """Returns where the factors of all kept rows are finite, bool `[...]`."""
    return (F.isfinite() | ~mask.unsqueeze(-1)).all(-1).all(-1)
