"""The least-squares fit of predictions by factors and a constant, as `numpy.linalg.lstsq` finds it.

Where the factors of an era are safely independent it comes from a Cholesky decomposition of their Gram matrix, one pass
over them; elsewhere from their singular values, of which the small ones are cut off.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from alignray.metrics.blocks import shift_, zero_outside_

RCOND = 1e-6
"""Singular values of the factors and the constant below this share of the largest count as 0."""

_SAFE = 1e6
"""Up to this trace of the inverse of the factors' correlation matrix, they are safely independent. The trace bounds the
inverse of the smallest eigenvalue: Cholesky errs by 1e-8 at most, relatively, and one refinement squares that."""


def explained(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the fit, `[..., R, n]`; 0 in masked rows, NaN in eras whose factors are not finite.

    Args:
        p: R predictions an era, `[..., R, n]`.
        F: Factors `[..., n, k]`, in float64. Overwritten.
        mask: The rows that take part, bool `[..., 1, n]`.
    """
    p = torch.where(mask, p, 0.0)
    if 0 in F.shape[-2:]:
        return _by_singular_values(p, zero_outside_(F, mask), mask)
    first = shift_(F, mask)
    fit, safe = _by_gram(p, F, first, mask)
    if not bool(safe.all()):
        rest = ~safe
        restored = zero_outside_(F[rest] + first[rest], mask[rest])
        fit[rest] = _by_singular_values(p[rest], restored, mask[rest])
    return fit


def _by_gram(p: Tensor, S: Tensor, first: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Returns the fit, `[..., R, n]`, and in which eras it is to be trusted, bool `[...]`.

    Args:
        p: Predictions `[..., R, n]`, 0 in masked rows.
        S: Factors less their first row, `[..., n, k]`, 0 in masked rows.
        first: That row, `[..., 1, k]`.
        mask: The rows that take part, `[..., 1, n]`.
    """
    count = mask.sum(-1, keepdim=True)
    centre = mask.to(S.dtype) @ S / count  # [..., 1, k]
    gram = _gram(S) - count * (centre.mT @ centre)
    variance = gram.diagonal(dim1=-2, dim2=-1)
    # A constant factor, all 0 here, is the constant's business: it gets the coefficient 0.
    length = torch.where(variance > 0.0, variance, 1.0).sqrt()
    scale = length.unsqueeze(-1) * length.unsqueeze(-2)
    triangle, inverse = _cholesky(gram / scale + torch.diag_embed((variance == 0.0).to(S.dtype)))
    bound = inverse.diagonal(dim1=-2, dim2=-1).sum(-1)
    mean = centre + first
    largest = variance.sum(-1) + count[..., 0, 0] * (1.0 + mean.square().sum((-2, -1)))
    # With a constant beside them factors are the centred ones times a matrix whose inverse is 1 + |mean| at most.
    centred = torch.minimum(length.square().amin(-1) / bound, count[..., 0, 0])
    smallest = centred / (1.0 + mean.square().sum((-2, -1)).sqrt()).square()
    safe = triangle & (bound <= _SAFE) & (smallest > 100.0 * RCOND**2 * largest)
    inverse = inverse / scale

    average = p.sum(-1, keepdim=True) / count
    fit = torch.where(mask, average, 0.0)
    for _ in range(2):
        coefficients = (p - fit) @ S @ inverse  # [..., R, k]
        fit = fit + coefficients @ S.mT - torch.where(mask, coefficients @ centre.mT, 0.0)
    return fit, safe


def _gram(S: Tensor) -> Tensor:
    """Returns SᵀS, `[..., k, k]`."""
    if S.device.type != "cpu" or torch.get_num_threads() > 1:
        # Of several threads numpy's would wait for work on the cores that torch's need, and take five times as long.
        return S.mT @ S
    # numpy sees that the two are one, and asks BLAS for half of the product.
    values = S.numpy()
    with np.errstate(over="ignore", invalid="ignore"):
        return torch.from_numpy(np.matmul(values.mT, values))


def _cholesky(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Returns which matrices are positive definite, and the inverse of those; the identity of the others."""
    triangle, info = torch.linalg.cholesky_ex(matrix)
    definite = info == 0
    identity = torch.eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return definite, torch.cholesky_inverse(torch.where(definite[..., None, None], triangle, identity))


def _by_singular_values(p: Tensor, F: Tensor, mask: Tensor) -> Tensor:
    """Returns the fit, `[..., R, n]`; NaN in eras whose factors are not finite.

    The singular values are those of the triangle R of a QR decomposition, so the orthogonal part of the factors' size
    is never formed; one correction of the seminormal equations RᵀR c = Fᵀp regains the accuracy that they lack (Björck
    1987, doi:10.1016/0024-3795(87)90101-7).

    Args:
        p: Predictions `[..., R, n]`, 0 in masked rows.
        F: Factors `[..., n, k]`, 0 in masked rows.
        mask: The rows that take part, `[..., 1, n]`.
    """
    finite = F.isfinite().all(-1).all(-1)[..., None, None]
    design = torch.cat([torch.where(finite, F, 0.0), mask.mT.to(F.dtype)], dim=-1)
    triangle = torch.linalg.qr(design, mode="r").R
    _, sigma, basis = torch.linalg.svd(triangle, full_matrices=False)
    scaled = basis * torch.where(sigma > RCOND * sigma[..., :1], 1.0 / sigma, 0.0).unsqueeze(-1)
    gram_inverse = scaled.mT @ scaled

    fit = torch.zeros_like(p)
    for _ in range(2):
        fit = fit + (p - fit) @ design @ gram_inverse @ design.mT
    return torch.where(finite, fit, torch.nan)
