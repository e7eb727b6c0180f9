"""What couples the rows: the columns A, and the Newton matrix ``M = diag(e) + Aᵀ diag(h) A`` that comes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.costs.factors import Factors
from alignray.costs.term import Strength, over_rows

_REFINEMENTS = 4
_RIDGE = 1e-14
"""Of what the diagonal of M would be if all rows moved."""
_LOOK_EVERY = 4
"""Conjugate gradient steps from one look at the residual to the next, since a look costs as much as a product."""
LEAST_SIZE = 96
"""A smaller system is factorised in the time of a few conjugate gradient steps."""
_SIZE_PER_STEP = 12
"""A system of so many unknowns is factorised in the time of one conjugate gradient step."""
_SHRINK = 0.5
"""Rows are gathered where no more than this share of them counts."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """The columns ``A [n, c]`` that a cost puts a price on, or holds at 0: ``√λ F`` or ``F``, and 1.

    Vectors are laid out as ``[R, B, ·]``: the R share the factors of each of the B.

    Attributes:
        factors: Factors ``[B, n, k]``, or None.
        scale: √λ ``[R, B, 1]``; 1 where exposures are held at 0.
        ones: The column of ones, 0 on padded rows, ``[R, B, n]``; None where positions need not sum to 0.
        priced: Whether the factors have a price; else their exposures are held at 0.
        soft: For each column 1 where it has a price, 0 where it is held at 0, ``[c]``: the diagonal e of M.
        norms: ``‖a_j‖₂`` of the columns held at 0, 0 for the others, ``[R, B, c]``.
        give: The most that a row gives way, 1/γ, ``[R, B, 1]``.
        mask: Rows that exist ``[R, B, n]``, or None for all.
    """

    factors: Factors | None
    scale: Tensor
    ones: Tensor | None
    priced: bool
    soft: Tensor
    norms: Tensor
    give: Tensor
    mask: Tensor | None

    @classmethod
    def of(
        cls, cost: Cost, factors: Factors | None, p: Tensor, mask: Tensor | None, stiffness: Strength
    ) -> Columns | None:
        """The columns of a cost, for predictions ``p [R, B, n]``; None where rows do not meet.

        Args:
            cost: The cost; its strengths are numbers or ``[R, B]``.
            factors: Factors ``[B, n, k]``, or None.
            p: Predictions ``[R, B, n]``.
            mask: Rows that exist ``[R, B, n]``, or None for all.
            stiffness: γ, the strong convexity of the rows, broadcast to ``[R, B, 1]``.
        """
        if factors is not None and not factors.shape[-1]:
            factors = None
        if factors is None and not cost.sum_neutral:
            return None
        scale, priced = p.new_ones(*p.shape[:-1], 1), not cost.factor_neutral
        if priced:
            scale = (scale * over_rows(cost.factor_strength)).sqrt()
        ones = None
        if cost.sum_neutral:
            ones = torch.ones_like(p) if mask is None else mask.to(p.dtype)
        k = 0 if factors is None else factors.shape[-1]
        soft = p.new_zeros(k + (ones is not None))
        norms = p.new_zeros(*p.shape[:-1], len(soft))
        if priced:
            soft[:k] = 1
        elif factors is not None:
            norms[..., :k] = factors.column_norms(mask, p.dtype)
        if ones is not None:
            norms[..., k] = ones.sum(-1).sqrt()
        return cls(factors, scale, ones, priced, soft, norms, torch.ones_like(scale) / stiffness, mask)

    @property
    def all_priced(self) -> bool:
        """Whether nothing is held at 0."""
        return self.priced and self.ones is None

    def priced_part(self, nu: Tensor) -> Tensor:
        """e ν: the entries of ``ν [R, B, c]`` that have a price, 0 for those held at 0."""
        return nu if self.all_priced else self.soft * nu

    @property
    def count(self) -> int:
        """c, the number of columns."""
        return len(self.soft)

    def exposures(self, x: Tensor) -> Tensor:
        """Aᵀx ``[R, B, c]``, for ``x [R, B, n]`` that is 0 on padded rows."""
        parts = [] if self.factors is None else [self.factors.exposures(x) * self.scale]
        if self.ones is not None:
            parts.append(x.sum(-1, keepdim=True))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    def single(self) -> Factors | None:
        """The factors as float32 reads them fastest: a copy of float64, half its size; codes as they are."""
        if self.factors is None or self.factors.codes.dtype != torch.float64:
            return self.factors
        return self.factors.with_codes(self.factors.codes.float())

    def loadings(self, nu: Tensor, single: Factors | None = None) -> Tensor:
        """Aν ``[R, B, n]``, for ``ν [R, B, c]``; 0 on padded rows.

        Args:
            nu: ``[R, B, c]``.
            single: Factors to be multiplied in float32, which is enough for a rough step; None for float64.
        """
        k = 0 if self.factors is None else self.factors.shape[-1]
        if self.factors is None:
            assert self.ones is not None
            return nu * self.ones
        priced = nu[..., :k] * self.scale
        rows = self.factors.loadings(priced) if single is None else single.loadings(priced.float()).to(nu.dtype)
        if self.ones is not None:
            rows = rows + nu[..., k:]
        return rows if self.mask is None else torch.where(self.mask, rows, 0.0)

    def rows(self, index: Tensor) -> Tensor:
        """The rows of A at ``index [R, B, a]`` without the scale of F, ``[R, B, a, c]``."""
        parts = []
        if self.factors is not None:
            parts.append(self.factors.rows(index, self.scale.dtype))
        if self.ones is not None:
            parts.append(self.ones.gather(-1, index).unsqueeze(-1))
        return torch.cat(parts, -1) if len(parts) > 1 else parts[0]

    @property
    def scales(self) -> Tensor:
        """What the columns of `rows` and `gram` lack to be those of A, ``[R, B, c]``."""
        if self.factors is None or self.ones is None:
            return self.scale if self.ones is None else torch.ones_like(self.scale)
        return torch.where(torch.arange(self.count, device=self.soft.device) < self.count - 1, self.scale, 1.0)

    def gram(self, h: Tensor) -> Tensor:
        """``Aᵀ diag(h) A`` without the scale, ``[R, B, c, c]``, for ``h [R, B, n]`` that is 0 on padded rows."""
        if self.factors is None:
            return h.sum(-1, keepdim=True).unsqueeze(-1)
        gram = self.factors.gram(h)
        if self.ones is None:
            return gram
        across = self.factors.exposures(h).unsqueeze(-1)
        total = h.sum(-1, keepdim=True).unsqueeze(-1)
        return torch.cat([torch.cat([gram, across], -1), torch.cat([across.mT, total], -1)], -2)

    def row_norms(self) -> Tensor:
        """The largest ``‖aᵢ‖₂`` over the rows of the columns that have a price, ``[R, B]``."""
        if self.factors is None or not self.priced:
            return self.scale.new_zeros(self.scale.shape[:-1])
        norms = self.factors.row_norms(self.scale.dtype)
        norms = norms if self.mask is None else torch.where(self.mask, norms, 0.0)
        return self.scale.squeeze(-1) * norms.amax(-1)


@dataclass(slots=True, eq=False)
class NewtonMatrix:
    """M for one state of the rows, over the rows that count alone, factorised once it is asked to solve exactly.

    Attributes:
        columns: A.
        h: ∂x/∂v of every row, ``[R, B, n]``.
        index: The rows that move or are not 0, ``[R, B, a]`` (padded with others); None where most rows are.
        block: A on those rows without its scales ``[R·B, a, c]``, or None.
        give: h on those rows ``[R, B, a]``, or None.
        scales: Those scales, ``[R, B, c]``.
    """

    columns: Columns
    h: Tensor
    index: Tensor | None
    block: Tensor | None
    give: Tensor | None
    scales: Tensor
    _factor: Tensor | None = field(default=None, init=False)
    _root: Tensor | None = field(default=None, init=False)
    _damped: bool = field(default=False, init=False)

    @classmethod
    def of(cls, columns: Columns, h: Tensor, x: Tensor) -> NewtonMatrix:
        """M where the rows are at ``x [R, B, n]``."""
        counting, most = torch.logical_or(h, x), int(_SHRINK * h.shape[-1])
        if h.shape[:-1].numel() == 1:
            index = counting.view(-1).nonzero().view(1, 1, -1)
            a = index.shape[-1]
        else:
            rank = counting.cumsum(-1)
            a = int(rank[..., -1].amax()) if counting.numel() else 0
            index = _places(counting, rank, a) if a <= most else counting
        if a > most:
            return cls(columns, h, None, None, None, columns.scales)
        return cls(columns, h, index, columns.rows(index).flatten(0, 1), h.gather(-1, index), columns.scales)

    @property
    def size(self) -> int:
        """The size of the smaller system that solves M: c, or the number of gathered rows."""
        c = self.columns.count
        return c if self.block is None else min(c, self.block.shape[-2])

    @property
    def suits_rough_steps(self) -> bool:
        """Whether conjugate gradients are the cheaper way to a step: M is large, and its rows are few and at hand."""
        return self.block is not None and self.size >= LEAST_SIZE

    def on_the_rows_of(self, other: NewtonMatrix) -> bool:
        """Whether both gathered the same rows."""
        if self.index is None or other.index is None:
            return self.index is other.index
        return torch.equal(self.index, other.index)

    def exposures(self, x: Tensor) -> Tensor:
        """Aᵀx ``[R, B, c]`` of an x that is 0 outside of the rows that count."""
        if self.index is None:
            return self.columns.exposures(x)
        return self._exposures(x.gather(-1, self.index))

    def apply(self, d: Tensor) -> Tensor:
        """M d for ``d [R, B, c]``."""
        if self.give is None:
            return self.columns.priced_part(d) + self.columns.exposures(self.h * self.columns.loadings(d))
        return self.columns.priced_part(d) + self._exposures(self.give * self._loadings(d))

    def solve_roughly(self, r: Tensor, tol: float) -> Tensor:
        """``d ≈ M⁻¹r`` by conjugate gradients in float32, to ``‖r − M d‖ ≤ tol ‖r‖``, or for a factorisation's time.

        Any such d leads downhill, which is all that a step far from the solution has to do.
        """
        tiny = torch.finfo(torch.float32).tiny
        size = torch.linalg.vector_norm(r, dim=-1, keepdim=True).clamp(min=torch.finfo(r.dtype).tiny)
        R, B, c = r.shape
        root = self._half().float()
        soft, rest = self.columns.soft.float(), (r / size).float().view(R * B, 1, c)
        d, search = torch.zeros_like(rest), rest
        norm = torch.linalg.vecdot(rest, rest).unsqueeze(-1)
        for step in range(self.size // _SIZE_PER_STEP):
            product = torch.addcmul(torch.bmm(torch.bmm(search, root.mT), root), soft, search)
            length = norm / (torch.linalg.vecdot(search, product).unsqueeze(-1) + tiny)
            d = torch.addcmul(d, length, search)
            rest = torch.addcmul(rest, length, product, value=-1)
            following = torch.linalg.vecdot(rest, rest).unsqueeze(-1)
            if step % _LOOK_EVERY == _LOOK_EVERY - 1 and bool((following <= tol * tol).all()):
                break
            search = torch.addcmul(rest, following / (norm + tiny), search)
            norm = following
        found: Tensor = d.view(R, B, c).to(r.dtype) * size
        return found

    def solve(self, r: Tensor) -> tuple[Tensor, Tensor]:
        """``d = M⁻¹r`` for ``r [R, B, c]``, refined in float64; one of them where M has no full rank.

        Returns:
            d, and ``‖r − M d‖₂ [R, B]``, infinite where rounding has made M indefinite.
        """
        d = self.solve_once(r)
        rest = r - self.apply(d)
        error = torch.linalg.vector_norm(rest, dim=-1)
        enough = 1e-13 * torch.linalg.vector_norm(r, dim=-1)
        for _ in range(_REFINEMENTS):
            if bool((error <= enough).all()):
                break
            better = d + self.solve_once(rest)
            rest_of_better = r - self.apply(better)
            error_of_better = torch.linalg.vector_norm(rest_of_better, dim=-1)
            gain = error_of_better < 0.5 * error
            if not bool(gain.any()):
                break
            d = torch.where(gain.unsqueeze(-1), better, d)
            rest = torch.where(gain.unsqueeze(-1), rest_of_better, rest)
            error = torch.where(gain, error_of_better, error)
        return d, error.nan_to_num(nan=torch.inf, posinf=torch.inf)

    def solve_once(self, r: Tensor, damping: Tensor | float = 0.0) -> Tensor:
        """The same without refinement; NaN where rounding has made M indefinite.

        Args:
            r: ``[R, B, c]``.
            damping: How much more than M resists where columns are held at 0, as a share of all rows moving ``[R, B]``:
                few rows that move say little about those that rest. A factor that is there already keeps its own.
        """
        damped = isinstance(damping, Tensor)
        if self._factor is None or (self._damped and not damped):
            self._factorise(damping)
            self._damped = damped
        assert self._factor is not None
        right = r.reshape(-1, r.shape[-1], 1)
        if self._root is None:
            solved = torch.cholesky_solve(right, self._factor)
        else:  # (I + SᵀS)⁻¹ = I − Sᵀ(I + SSᵀ)⁻¹S: the system of the rows is the smaller one.
            rows = torch.cholesky_solve(torch.bmm(self._root, right), self._factor)
            solved = torch.baddbmm(right, self._root.mT, rows, alpha=-1)
        return solved.view(r.shape)

    def _factorise(self, damping: Tensor | float) -> None:
        c = self.columns.count
        if self.block is None:
            gram = self.columns.gram(self.h) * self.scales.unsqueeze(-1) * self.scales.unsqueeze(-2)
            matrix, diagonal = gram.flatten(0, 1), self.columns.soft
        elif self.columns.all_priced and self.block.shape[-2] < c:
            root = self._root = self._half()
            matrix, diagonal = torch.bmm(root, root.mT), torch.ones_like(root[0, :, 0])
        else:
            root = self._half()
            matrix, diagonal = torch.bmm(root.mT, root), self.columns.soft
        matrix.diagonal(dim1=-2, dim2=-1).add_(diagonal)
        if not self.columns.all_priced:
            _add_ridge(matrix.view(*self.h.shape[:-1], c, c), self.columns, damping)
        # Not `cholesky`: that raises for the whole batch, and waits for the device to do so.
        factor, info = torch.linalg.cholesky_ex(matrix)
        self._factor = torch.where((info > 0)[..., None, None], torch.nan, factor) if bool(info.any()) else factor

    def _half(self) -> Tensor:
        """S = √h A on the gathered rows, ``[R·B, a, c]``: ``M = diag(e) + SᵀS``."""
        assert self.block is not None
        assert self.give is not None
        weights = self.give.sqrt()
        if self.scales.shape[-1] == 1:
            return self.block * (weights * self.scales).view(len(self.block), -1, 1)
        scales = self.scales.expand(*weights.shape[:-1], -1).reshape(len(self.block), 1, -1)
        return self.block * weights.view(len(self.block), -1, 1) * scales

    def _exposures(self, rows: Tensor) -> Tensor:
        """Aᵀx ``[R, B, c]`` of an x given on the gathered rows alone, ``[R, B, a]``."""
        assert self.block is not None
        product = torch.bmm(rows.view(len(self.block), 1, -1), self.block)
        return product.view(*rows.shape[:-1], -1) * self.scales

    def _loadings(self, d: Tensor) -> Tensor:
        """Ad on the gathered rows ``[R, B, a]``, for ``d [R, B, c]``."""
        assert self.block is not None
        product = torch.bmm((d * self.scales).view(len(self.block), 1, -1), self.block.mT)
        return product.view(*d.shape[:-1], -1)


def _places(counting: Tensor, rank: Tensor, a: int) -> Tensor:
    """Where the rows that count stand, ``[R, B, a]``, filled up with a row that does not: without a sort.

    Args:
        counting: bool ``[R, B, n]``, with fewer than n of them in each element.
        rank: How many of them there are up to each row, ``[R, B, n]``.
        a: How many there are in the element that has most.
    """
    rows = torch.arange(counting.shape[-1], device=counting.device).expand_as(rank)
    # The rows that do not count all go to one place more, where one of them stays.
    places = rows.new_zeros(*rank.shape[:-1], a + 1).scatter_(-1, torch.where(counting, rank - 1, a), rows)
    taken = torch.arange(a, device=counting.device) < rank[..., -1:]
    return torch.where(taken, places[..., :a], places[..., a:])


def _add_ridge(matrix: Tensor, columns: Columns, damping: Tensor | float) -> None:
    """Make M definite where columns that are held at 0 depend on one another, or no row is left that could move.

    The ridge is of rounding size unless it is asked to dampen a step: refining takes its effect out again.
    """
    diagonal = matrix.diagonal(dim1=-2, dim2=-1)
    eps = torch.finfo(matrix.dtype).eps
    largest = diagonal.amax(-1, keepdim=True)
    free = columns.norms.square().amax(-1, keepdim=True) * columns.give
    ridge = torch.maximum(16 * columns.count * eps * largest, (_RIDGE + over_rows(damping)) * free)
    diagonal.add_(torch.where(ridge == 0, 1.0, ridge))
