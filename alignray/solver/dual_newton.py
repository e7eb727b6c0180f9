"""The native solver: semismooth Newton on the dual of what couples the rows.

The columns A are ``√λ F`` (a penalty), or ``F`` and 1 (held at 0); e is 1 for a column with a price, 0 for one held at
0. The problem's dual is to minimise over ν ∈ Rᶜ the convex function

    D(ν) = Φ*(p − Aν) + ½ Σ e ν²,      ∇D = e ν − Aᵀx(ν),      x(ν) = argmax_x (p − Aν)·x − Φ(x),

Φ the separable part with its bounds. Its generalised Hessian is ``M = diag(e) + Aᵀ diag(h) A`` with h = 1/φ''(x), 0 for
the rows at rest: only the rows that move enter. Far from the solution M is solved roughly, by conjugate gradients; once
the rows that move are the same as a step before, or nearly, by Cholesky on the smaller of c and their number. At the
solution it also gives ``J = ∂q/∂p = diag(h) − diag(h) A M⁻¹ Aᵀ diag(h)``, the Woodbury form of H⁻¹, and with columns
held at 0 that of ``Z (ZᵀHZ)⁻¹ Zᵀ``.

Source: the second-order sparsity of Li, Sun and Toh, "A highly efficient semismooth Newton augmented Lagrangian method
for solving Lasso problems", SIAM J. Optim. 28 (2018), doi:10.1137/16M1097572.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.solver.columns import LEAST_SIZE, Columns, NewtonMatrix
from alignray.solver.separable import Separable

_ROUGH_STEPS = 30  # Newton steps that may be rough
_ROUGH = 0.1
_EXACT = 1e-3  # a forcing term below this asks for more than float32 has
_FLAT = 0.4  # the share of its slope that a line search leaves
_MAX_TRIALS = 60
_DAMPING = 1e-2  # of the first step, see `NewtonMatrix.solve_once`; it falls with the square of the gradient
_PATIENCE = 12  # steps without gain next to the tolerance before an element is given up


@dataclass(frozen=True, slots=True, eq=False)
class DualNewton:
    """Solves and differentiates one cost on one batch of eras, laid out as ``[R, B, ·]``, in float64.

    Attributes:
        separable: The terms that act on each row alone.
        columns: What couples the rows, or None.
    """

    separable: Separable
    columns: Columns | None

    def solve(
        self, p: Tensor, *, tol: float, max_iter: int, start: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, NewtonMatrix | None]:
        """Solve the batch.

        Args:
            p: Predictions ``[R, B, n]``.
            tol: The KKT residual to reach.
            max_iter: Newton steps at most.
            start: Duals ``[R, B, c]`` to start from, or None.

        Returns:
            ``q [R, B, n]``, the dual ``[R, B, c]`` (None where rows do not meet), the Newton steps ``[R, B]``, and M at
            q.
        """
        iterations = torch.zeros(p.shape[:-1], dtype=torch.int64, device=p.device)
        columns = self.columns
        if columns is None:
            return self.separable.argmax(p), None, iterations, None
        nu = p.new_zeros(*p.shape[:-1], columns.count) if start is None else start
        v = p if start is None else p - columns.loadings(nu)
        x = self.separable.argmax(v)
        progress = _Progress.begin(columns, p, tol / 2)
        matrix: NewtonMatrix | None = None
        single: Factors | None = None  # the factors for rough steps
        drifted = False  # whether v took a rough step, and is p − Aν no better than float32
        while True:
            h = self.separable.compliance(x)
            same = torch.zeros_like(iterations, dtype=torch.bool) if matrix is None else (h == matrix.h).all(-1)
            unchanged = matrix is not None and bool(same.all())
            following = NewtonMatrix.of(columns, h, x)
            # Kept with its factor, which may serve the derivative too.
            if matrix is None or not unchanged or not matrix.on_the_rows_of(following):
                matrix = following
            gradient = columns.priced_part(nu) - matrix.exposures(x)
            running = progress.update(gradient, x)
            going = progress.unfinished > 0 and progress.steps < max_iter
            rough = going and not unchanged and progress.rough and matrix.suits_rough_steps
            if drifted and not rough:
                v, drifted = p - columns.loadings(nu), False
                x = self.separable.argmax(v)
                continue
            if not going:
                return x, nu, iterations, matrix
            damping = 0.0 if unchanged else self._damping(progress, h, same)
            step = matrix.solve_roughly(-gradient, progress.forcing) if rough else matrix.solve_once(-gradient, damping)
            if rough and not _all_finite(step):  # numbers that are too large for float32
                step, rough = matrix.solve_once(-gradient, damping), False
            step = progress.accept(step, running, rough=rough)
            if rough and single is None:
                single = columns.single()
            loads = columns.loadings(step, single if rough else None)
            nu, v, x = self._search(nu, v, x, step, loads)
            drifted = drifted or rough
            iterations = iterations + running

    def adjoint(
        self, q: Tensor, g: Tensor, matrix: NewtonMatrix | None, held: NewtonMatrix | None = None
    ) -> tuple[Tensor, Tensor]:
        """How a decision answers to what its rows would do alone.

        Where the rows would move by ``r``, all else held, the decision moves by ``r − diag(h) A M⁻¹ Aᵀr``.

        Args:
            q: The solution ``[R, B, n]``.
            g: The gradient in the decision ``[R, B, n]``.
            matrix: M at q, if it is known.
            held: M at another q, to be solved in its stead.

        Returns:
            The gradient in r, ``g − A M⁻¹ Aᵀ diag(h) g``, and the residual of the solve relative to g ``[R, B]``.
        """
        if self.columns is None:
            return g, g.new_zeros(g.shape[:-1])
        matrix = NewtonMatrix.of(self.columns, self.separable.compliance(q), q) if matrix is None else matrix
        response = matrix.h * g
        solved, error = (held or matrix).solve(matrix.exposures(response))
        idle = (response == 0).all(-1)  # nothing to solve for, were M as broken as it may be
        solved, error = torch.where(idle.unsqueeze(-1), 0.0, solved), torch.where(idle, 0.0, error)
        # ‖√h A M⁻¹‖ ≤ ½ where every column has a price: in this unit the error of the result is at most the residual.
        unit = torch.linalg.vector_norm(matrix.h.sqrt() * g, dim=-1)
        relative = torch.where(error == 0, 0.0, error / unit.clamp(min=torch.finfo(g.dtype).tiny))
        return g - self.columns.loadings(solved), relative

    def _damping(self, progress: _Progress, h: Tensor, same: Tensor) -> Tensor | float:
        """How much to dampen a step, ``[R, B]``: not at all where every row moves, or the same rows as before.

        Nor with few columns held at 0: what a step overshoots there costs less than small steps do.
        """
        if progress.columns.all_priced or progress.columns.count < LEAST_SIZE:
            return 0.0
        resting = h == 0 if self.separable.mask is None else (h == 0) & self.separable.mask
        if not bool(resting.any()):
            return 0.0
        far = progress.ratio > _EXACT
        return _DAMPING * progress.ratio.square() * (far & resting.any(-1) & ~same)

    def _search(self, nu: Tensor, v: Tensor, x: Tensor, step: Tensor, loads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """ν, v and x as far along the step as to where the dual, convex along it, has lost most of its slope.

        The whole step, mostly; else Newton's method on the slope, within a bracket. A trial costs a few passes over the
        rows, none over the factors.
        """
        assert self.columns is not None
        priced = self.columns.priced_part(step)
        linear, bend = torch.linalg.vecdot(nu, priced), torch.linalg.vecdot(step, priced)
        first = linear - torch.linalg.vecdot(x, loads)
        ahead = v - loads
        trial = self.separable.argmax(ahead)
        slope = linear + bend - torch.linalg.vecdot(trial, loads)
        if bool((slope.abs() <= _FLAT * first.abs()).all()):
            return nu + step, ahead, trial
        rounding = 64 * torch.finfo(v.dtype).eps * (linear.abs() + (x * loads).abs().sum(-1))
        enough = torch.maximum(_FLAT * first.abs(), rounding)
        length = torch.ones_like(first)
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        for _ in range(_MAX_TRIALS):
            flat = slope.abs() <= enough
            if bool(flat.all()):
                break
            curvature = bend + torch.linalg.vecdot(self.separable.compliance(trial), loads.square())
            low = torch.where(slope < 0, length, low)
            high = torch.where(slope < 0, high, length)
            # What Newton says, if it is within the bracket; else its middle; far too far where no row is left to move.
            newton = length - slope / curvature.clamp(min=torch.finfo(v.dtype).tiny)
            middle = torch.where((curvature == 0) & (low == 0), high / 10, (low + high) / 2)
            inside = (newton > low) & (newton < torch.minimum(high, 10 * length))
            following = torch.where(inside, newton, torch.where(high.isinf(), 10 * length, middle))
            length = torch.where(flat | slope.isnan(), length, following)
            ahead = torch.addcmul(v, length.unsqueeze(-1), loads, value=-1)
            trial = self.separable.argmax(ahead)
            slope = linear + length * bend - torch.linalg.vecdot(trial, loads)
        return torch.addcmul(nu, length.unsqueeze(-1), step), ahead, trial


@dataclass(slots=True, eq=False)
class _Progress:
    """Where each element of a batch stands between two Newton steps."""

    columns: Columns
    tol: float
    unit: Tensor
    """Of the residual: ``max(1, ‖p‖∞)``."""
    row_norms: Tensor
    first: Tensor | None = None
    """The size of the gradient before the first step, ``[R, B]``."""
    size: Tensor | None = None
    """Its size now."""
    waited: Tensor | None = None
    """Steps without gain, next to the tolerance ``[R, B]``; None while no element has come there."""
    stuck: Tensor | None = None
    """The elements given up ``[R, B]``; None for none."""
    unfinished: int = 0
    """How many elements have not arrived."""
    steps: int = 0
    rough_steps: int = 0
    forcing: float = _ROUGH

    @classmethod
    def begin(cls, columns: Columns, p: Tensor, tol: float) -> _Progress:
        return cls(columns, tol, p.abs().amax(-1).clamp(min=1), columns.row_norms())

    @property
    def rough(self) -> bool:
        """Whether the next step may be."""
        return self.rough_steps < _ROUGH_STEPS and self.forcing >= _EXACT

    def update(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Take note of a new state; which elements have not arrived, ``[R, B]``."""
        size = torch.linalg.vector_norm(gradient, dim=-1)
        residual = self._residual(gradient, size, x)
        running = residual > self.tol
        if self.waited is not None:
            self._give_up(self.waited > _PATIENCE)
        if self.stuck is not None:
            running = running & ~self.stuck
        self.unfinished, self.forcing = int(running.sum()), _ROUGH
        if self.size is not None and self.unfinished:
            rate = torch.where(running, size / self.size, 0.0)
            self.forcing = min(_ROUGH, float(rate.amax()) ** 2)
        self.first, self.size = size if self.first is None else self.first, size
        return running

    @property
    def ratio(self) -> Tensor:
        """The size of the gradient as a share of the first ``[R, B]``, 1 at most."""
        assert self.first is not None
        assert self.size is not None
        return (self.size / self.first.clamp(min=torch.finfo(self.size.dtype).tiny)).clamp(max=1)

    def accept(self, step: Tensor, running: Tensor, *, rough: bool) -> Tensor:
        """The step, 0 for the elements that have arrived.

        Where rounding has spoilt the factorisation there is no step: the element stays finite, and unconverged.
        """
        self.steps += 1
        self.rough_steps += rough
        if not _all_finite(step):
            self._give_up(running & ~step.isfinite().all(-1))
            running = running & ~self.stuck if self.stuck is not None else running
        elif self.unfinished == running.numel():
            return step
        return torch.where(running.unsqueeze(-1), step, 0.0)

    def _wait(self, near: Tensor, size: Tensor) -> None:
        """Count the steps that gain nothing next to the tolerance, where rounding may not let an element arrive."""
        waited = torch.zeros_like(size) if self.waited is None else self.waited
        gained = torch.ones_like(near) if self.size is None else size < 0.9 * self.size
        self.waited = torch.where(near & ~gained, waited + 1, 0.0)

    def _give_up(self, elements: Tensor) -> None:
        self.stuck = elements if self.stuck is None else self.stuck | elements

    def _residual(self, gradient: Tensor, size: Tensor, x: Tensor) -> Tensor:
        """At least the KKT residual; near the tolerance, where it takes a pass over F to know, the residual itself."""
        priced = self.columns.priced_part(gradient)
        residual = self.row_norms * (size if self.columns.all_priced else torch.linalg.vector_norm(priced, dim=-1))
        residual = residual / self.unit
        near = (residual > self.tol) & (residual <= 1e3 * self.tol)
        if bool(near.any()):
            residual = self.columns.loadings(priced).abs().amax(-1) / self.unit
            self._wait(near, size)
        if not self.columns.all_priced and self.columns.count:
            scale = self.columns.norms.clamp(min=1) * x.abs().amax(-1, keepdim=True).clamp(min=1)
            held = ((1 - self.columns.soft) * gradient).abs() / scale
            residual = torch.maximum(residual, held.amax(-1))
        certain: Tensor = residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return certain


def _all_finite(values: Tensor) -> bool:
    """Whether every number is finite, by one look at the largest."""
    return math.isfinite(float(values.abs().amax()))
