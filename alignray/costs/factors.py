"""The factors F of a batch of eras, as a linear map that is never copied to another precision as a whole."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from alignray.costs.term import is_number
from alignray.errors import InvalidArgumentError

_BLOCK = {"cpu": 1 << 19, "cuda": 1 << 25}
"""Numbers of F that are converted at a time: on a CPU what its second-level cache holds."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """``F = scale · codes + offset``: factors kept as the codes they are stored in.

    A plain tensor of factors is as good wherever the codes are the numbers themselves.

    Example:
        >>> five_bins = torch.randint(0, 5, (5000, 420), dtype=torch.int8)
        >>> F = Factors(five_bins, scale=0.5, offset=-1.0)  # -1, -½, 0, ½, 1

    Attributes:
        codes: ``[..., n, k]``, integers or floats.
        scale: A number, or one a factor ``[k]``.
        offset: A number, or one a factor ``[k]``.

    Raises:
        InvalidArgumentError: A type, shape or device does not fit, or a number is not finite.
    """

    codes: Tensor
    scale: float | Tensor = 1.0
    offset: float | Tensor = 0.0

    def __post_init__(self) -> None:
        _require_codes(self.codes)
        for name in ("scale", "offset"):
            _require_coefficient(name, getattr(self, name), self.codes)

    @classmethod
    def of(cls, F: Tensor | Factors) -> Factors:
        """Factors from factors, or from a tensor ``[..., n, k]``."""
        return F if isinstance(F, Factors) else cls(F)

    @property
    def shape(self) -> torch.Size:
        """``[..., n, k]``."""
        return self.codes.shape

    @property
    def device(self) -> torch.device:
        """Where the codes are."""
        return self.codes.device

    def dim(self) -> int:
        """The number of axes, as of a tensor."""
        return self.codes.dim()

    def with_codes(self, codes: Tensor) -> Factors:
        """Other codes on the same scale."""
        return Factors(codes, self.scale, self.offset)

    def exposures(self, x: Tensor) -> Tensor:
        """Fᵀx ``[..., k]`` for ``x [..., n]``, in the precision of x; axes that F lacks are shared, not copied."""
        if self._plain(x):
            return _row_product(x, self.codes)
        return cast("Tensor", _Product.apply(x, self, False))  # type: ignore[no-untyped-call]

    def loadings(self, z: Tensor) -> Tensor:
        """Fz ``[..., n]`` for ``z [..., k]``, likewise."""
        if self._plain(z):
            return _row_product(z, self.codes.mT)
        return cast("Tensor", _Product.apply(z, self, True))  # type: ignore[no-untyped-call]

    def gram(self, weights: Tensor) -> Tensor:
        """``Fᵀ diag(w) F`` ``[R, B, k, k]`` for ``codes [B, n, k]`` and ``w [R, B, n]``, in the precision of w."""
        k = self.shape[-1]
        total = weights.new_zeros(*weights.shape[:-1], k, k)
        for start, block in self._blocks(weights.dtype):
            rows = weights[..., start : start + block.shape[-2], None]
            for member, weight in zip(total, rows, strict=True):
                member += (block * weight).mT @ block
        return total

    def rows(self, index: Tensor, dtype: torch.dtype) -> Tensor:
        """The rows of F at ``index [R, B, a]``, ``[R, B, a, k]``, for ``codes [B, n, k]``."""
        B, n, k = self.shape
        if B > 1:
            index = index + torch.arange(0, B * n, n, device=index.device).unsqueeze(-1)
        codes = self.codes.reshape(B * n, k).index_select(0, index.flatten())
        return self._affine(codes.to(dtype)).view(*index.shape, k)

    def row_norms(self, dtype: torch.dtype) -> Tensor:
        """``‖fᵢ‖₂`` of every row, ``[..., n]``."""
        return torch.cat([torch.linalg.vector_norm(block, dim=-1) for _, block in self._blocks(dtype)], -1)

    def column_norms(self, mask: Tensor | None, dtype: torch.dtype) -> Tensor:
        """``‖f_j‖₂`` of every factor over the rows of a mask ``[..., n]`` (None: all), ``[..., k]``."""
        batch = self.shape[:-2] if mask is None else torch.broadcast_shapes(self.shape[:-2], mask.shape[:-1])
        total = torch.zeros(*batch, self.shape[-1], dtype=dtype, device=self.device)
        for start, block in self._blocks(dtype):
            rows = None if mask is None else mask[..., start : start + block.shape[-2], None]
            total = total + (block if rows is None else torch.where(rows, block, 0.0)).square().sum(-2)
        return total.sqrt()

    def finite(self, mask: Tensor | None) -> Factors:
        """The same factors, with 0 in the padded rows if something there is not finite.

        Raises:
            InvalidArgumentError: A row that exists holds something that is not finite.
        """
        # A sum is not finite if one of its numbers is not, and several times cheaper than to look at each.
        if not self.codes.is_floating_point() or bool(self.codes.sum().isfinite()):
            return self
        codes = self.codes if mask is None else torch.where(mask.unsqueeze(-1), self.codes, 0.0)
        bad = int((~codes.isfinite()).sum())
        if bad:
            raise InvalidArgumentError(f"F: expected finite numbers, got {bad} that are NaN or infinite")
        return self.with_codes(codes)

    def _plain(self, vector: Tensor) -> bool:
        return self.codes.dtype == vector.dtype and self._unscaled

    @property
    def _unscaled(self) -> bool:
        """Whether the codes are the numbers themselves."""
        tensors = isinstance(self.scale, Tensor) or isinstance(self.offset, Tensor)
        return not tensors and (self.scale, self.offset) == (1.0, 0.0)

    def _affine(self, codes: Tensor) -> Tensor:
        if self._unscaled:
            return codes
        return codes * _like(self.scale, codes) + _like(self.offset, codes)

    def _blocks(self, dtype: torch.dtype) -> Iterator[tuple[int, Tensor]]:
        """F by blocks of rows ``[..., b, k]`` with the first row of each, in the precision asked for."""
        for start, codes in _row_blocks(self.codes):
            yield start, self._affine(codes.to(dtype))

    def _product(self, vector: Tensor, transposed: bool) -> Tensor:
        """Fz if transposed, else Fᵀx: the scale is applied to the vector or the result, never to F."""
        scale, offset = _like(self.scale, vector), _like(self.offset, vector)
        if transposed:
            scaled = vector * scale
            blocks = (_row_product(scaled, codes.to(vector.dtype).mT) for _, codes in _row_blocks(self.codes))
            return torch.cat(list(blocks), -1) + (vector * offset).sum(-1, keepdim=True)
        total: Tensor | float = 0.0
        for start, codes in _row_blocks(self.codes):
            total = total + _row_product(vector[..., start : start + codes.shape[-2]], codes.to(vector.dtype))
        return total * scale + vector.sum(-1, keepdim=True) * offset


class _Product(torch.autograd.Function):
    """A product with F, or with Fᵀ, that keeps no converted copy of F for its derivative: the other product."""

    @staticmethod
    def forward(ctx: Any, vector: Tensor, factors: Factors, transposed: bool) -> Tensor:
        ctx.factors, ctx.transposed, ctx.shape = factors, transposed, vector.shape
        return factors._product(vector, transposed)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        back = _Product.apply(g, ctx.factors, not ctx.transposed)  # type: ignore[no-untyped-call]
        return back.sum_to_size(ctx.shape), None, None


def _row_product(x: Tensor, matrix: Tensor) -> Tensor:
    """``x M`` for rows ``x [..., m]`` and ``M [..., m, l]``; leading axes that M lacks are shared, not copied."""
    if matrix.dim() == 2:
        return x @ matrix
    if matrix.dim() == 3 and len(matrix) == 1:  # one era, whoever shares it: one product of matrices
        return x @ matrix[0]
    lead = x.dim() + 1 - matrix.dim()
    if lead <= 0:
        return (x.unsqueeze(-2) @ matrix).squeeze(-2)
    shared = x.flatten(0, lead - 1).movedim(0, -2) @ matrix  # rows of x first: the fast order on a CPU
    return shared.movedim(-2, 0).reshape(*x.shape[:lead], *shared.shape[:-2], matrix.shape[-1])


def _row_blocks(codes: Tensor) -> Iterator[tuple[int, Tensor]]:
    n = codes.shape[-2]
    wide = max(1, codes.numel() // max(1, n))
    step = max(1, _BLOCK.get(codes.device.type, _BLOCK["cpu"]) // wide)
    for start in range(0, n, step):
        yield start, codes[..., start : start + step, :]


def _like(value: float | Tensor, tensor: Tensor) -> float | Tensor:
    return value.to(tensor.dtype) if isinstance(value, Tensor) else value


def _require_codes(codes: object) -> None:
    if not isinstance(codes, Tensor):
        raise InvalidArgumentError(f"F: expected a tensor, got {type(codes).__name__}")
    if codes.is_complex() or codes.dtype == torch.bool:
        raise InvalidArgumentError(f"F: expected real numbers, got {codes.dtype}")
    if codes.requires_grad:
        raise InvalidArgumentError(
            "F: expected factors that require no gradient, since none is computed in F; pass F.detach()"
        )


def _require_coefficient(name: str, value: object, codes: Tensor) -> None:
    if isinstance(value, Tensor):
        if value.dim() > 1 or (value.dim() == 1 and value.shape != codes.shape[-1:]):
            raise InvalidArgumentError(
                f"{name}: expected a number or one a factor [{codes.shape[-1]}], got a tensor of {list(value.shape)}"
            )
        if value.device != codes.device:
            raise InvalidArgumentError(f"{name}: expected the device of the codes, {codes.device}, got {value.device}")
        if value.is_complex() or value.dtype == torch.bool:
            raise InvalidArgumentError(f"{name}: expected real numbers, got {value.dtype}")
        if value.requires_grad:
            raise InvalidArgumentError(
                f"{name}: expected numbers that require no gradient, since none is computed in F; pass {name}.detach()"
            )
        finite = bool(value.isfinite().all())
    elif not is_number(value):
        raise InvalidArgumentError(f"{name}: expected a number or a tensor, got {value!r}")
    else:
        finite = math.isfinite(cast("float", value))
    if not finite:
        raise InvalidArgumentError(f"{name}: expected finite numbers, got {value}")
