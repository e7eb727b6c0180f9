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

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.solver.columns import Columns, NewtonMatrix
from alignray.solver.separable import Separable

_ROUGH_STEPS = 30  # Newton steps that may be rough
_ROUGH = 0.1
_EXACT = 1e-3  # a forcing term below this asks for more than float32 has
_FLAT = 0.4  # the share of its slope that a line search leaves
_MAX_TRIALS = 60
_DAMPING = 1e-2  # of the first step, see `NewtonMatrix.solve_once`; it falls with the square of the gradient
_PATIENCE = 12  # exact steps without gain before an element is given up


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
            gradient = columns.soft * nu - matrix.exposures(x)
            running = progress.update(gradient, x)
            going = bool(running.any()) and progress.steps < max_iter
            rough = going and not unchanged and progress.rough and matrix.suits_rough_steps
            if drifted and not rough:
                v, drifted = p - columns.loadings(nu), False
                x = self.separable.argmax(v)
                continue
            if not going:
                return x, nu, iterations, matrix
            damping = 0.0 if unchanged else self._damping(progress, h, same)
            step = matrix.solve_roughly(-gradient, progress.forcing) if rough else matrix.solve_once(-gradient, damping)
            if rough and not bool(step.isfinite().all()):  # numbers that are too large for float32
                step, rough = matrix.solve_once(-gradient, damping), False
            step = progress.accept(step, running, rough=rough)
            if rough and single is None:
                single = columns.single()
            loads = columns.loadings(step, single if rough else None)
            length, x = self._search(v, x, nu, step, loads)
            nu = nu + length.unsqueeze(-1) * step
            v = v - length.unsqueeze(-1) * loads
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
        """How much to dampen a step, ``[R, B]``: not at all where every row moves, or the same rows as before."""
        resting = h == 0 if self.separable.mask is None else (h == 0) & self.separable.mask
        if progress.columns.all_priced or not bool(resting.any()):
            return 0.0
        far = progress.ratio > _EXACT
        return _DAMPING * progress.ratio.square() * (far & resting.any(-1) & ~same)

    def _search(self, v: Tensor, x: Tensor, nu: Tensor, step: Tensor, loads: Tensor) -> tuple[Tensor, Tensor]:
        """How far to go, ``[R, B]``, and x there: to where the dual, convex along the step, has lost most of its slope.

        Newton's method on the slope, within a bracket. A trial costs a few passes over the rows, none over the factors.
        """
        assert self.columns is not None
        soft = self.columns.soft
        linear, bend = (soft * nu * step).sum(-1), (soft * step.square()).sum(-1)
        first = linear - (x * loads).sum(-1)
        rounding = 64 * torch.finfo(v.dtype).eps * (linear.abs() + (x * loads).abs().sum(-1))
        enough = torch.maximum(_FLAT * first.abs(), rounding)
        length = torch.ones_like(first)
        low, high = torch.zeros_like(first), torch.full_like(first, torch.inf)
        for _ in range(_MAX_TRIALS):
            trial = self.separable.argmax(v - length.unsqueeze(-1) * loads)
            slope = linear + length * bend - (trial * loads).sum(-1)
            flat = slope.abs() <= enough
            if bool(flat.all()):
                return length, trial
            curvature = bend + (self.separable.compliance(trial) * loads.square()).sum(-1)
            low = torch.where(slope < 0, length, low)
            high = torch.where(slope < 0, high, length)
            # What Newton says, if it is within the bracket; else its middle; far too far where no row is left to move.
            newton = length - slope / curvature.clamp(min=torch.finfo(v.dtype).tiny)
            middle = torch.where((curvature == 0) & (low == 0), high / 10, (low + high) / 2)
            inside = (newton > low) & (newton < torch.minimum(high, 10 * length))
            following = torch.where(inside, newton, torch.where(high.isinf(), 10 * length, middle))
            length = torch.where(flat | slope.isnan(), length, following)
        return length, self.separable.argmax(v - length.unsqueeze(-1) * loads)


@dataclass(slots=True, eq=False)
class _Progress:
    """Where each element of a batch stands between two Newton steps."""

    columns: Columns
    tol: float
    unit: Tensor
    """Of the residual: ``max(1, ‖p‖∞)``."""
    row_norms: Tensor
    stuck: Tensor
    best: Tensor
    first: Tensor
    size: Tensor
    waited: Tensor
    steps: int = 0
    rough_steps: int = 0
    forcing: float = _ROUGH

    @classmethod
    def begin(cls, columns: Columns, p: Tensor, tol: float) -> _Progress:
        unit = p.abs().amax(-1).clamp(min=1)
        endless = torch.full_like(unit, torch.inf)
        stuck = torch.zeros_like(unit, dtype=torch.bool)
        return cls(columns, tol, unit, columns.row_norms(), stuck, endless, endless, endless, torch.zeros_like(unit))

    @property
    def rough(self) -> bool:
        """Whether the next step may be."""
        return self.rough_steps < _ROUGH_STEPS and self.forcing >= _EXACT

    def update(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Take note of a new state; which elements have not arrived, ``[R, B]``."""
        residual = self._residual(gradient, x)
        running = (residual > self.tol) & ~self.stuck
        size = torch.linalg.vector_norm(gradient, dim=-1)
        rate = torch.where(running & self.size.isfinite(), size / self.size, 0.0)
        self.forcing = min(_ROUGH, float(rate.amax()) ** 2) if self.steps and running.numel() else _ROUGH
        self.first = torch.where(self.first.isinf(), size, self.first)
        self.size = size
        gained = size < 0.9 * self.best
        self.best = torch.where(gained, size, self.best)
        self.waited = torch.where(gained, 0.0, self.waited + (not self.rough))
        self.stuck = self.stuck | (self.waited > _PATIENCE)
        return running & ~self.stuck

    @property
    def ratio(self) -> Tensor:
        """The size of the gradient as a share of the first ``[R, B]``, 1 at most."""
        return (self.size / self.first.clamp(min=torch.finfo(self.size.dtype).tiny)).clamp(max=1)

    def accept(self, step: Tensor, running: Tensor, *, rough: bool) -> Tensor:
        """The step, 0 for the elements that have arrived.

        Where rounding has spoilt the factorisation there is no step: the element stays finite, and unconverged.
        """
        self.steps += 1
        self.rough_steps += rough
        self.stuck = self.stuck | (running & ~step.isfinite().all(-1))
        return torch.where((running & ~self.stuck).unsqueeze(-1), step, 0.0)

    def _residual(self, gradient: Tensor, x: Tensor) -> Tensor:
        """At least the KKT residual; near the tolerance, where it takes a pass over F to know, the residual itself."""
        residual = self.row_norms * torch.linalg.vector_norm(self.columns.soft * gradient, dim=-1) / self.unit
        near = (residual > self.tol) & (residual <= 1e3 * self.tol)
        if bool(near.any()):
            residual = self.columns.loadings(self.columns.soft * gradient).abs().amax(-1) / self.unit
        if not self.columns.all_priced and self.columns.count:
            scale = self.columns.norms.clamp(min=1) * x.abs().amax(-1, keepdim=True).clamp(min=1)
            held = ((1 - self.columns.soft) * gradient).abs() / scale
            residual = torch.maximum(residual, held.amax(-1))
        certain: Tensor = residual.nan_to_num(nan=torch.inf, posinf=torch.inf)
        return certain
