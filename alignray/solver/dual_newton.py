"""The native solver: semismooth Newton on the dual of the factor penalty.

With λ the factor strength and ``ν = √λ Fᵀx``, the problem's dual is to minimise over ν ∈ Rᵏ the convex function

    D(ν) = Φ*(p − √λ F ν) + ½ ‖ν‖²,      ∇D = ν − √λ Fᵀx(ν),      x(ν) = argmax_x (p − √λ F ν)·x − Φ(x),

Φ the separable part. Its generalised Hessian is ``I + λ Fᵀ diag(h) F`` with h = 1/φ''(x), 0 for the rows at rest:
always at least I, whatever the rank of F, so each step is one Cholesky factorisation of size k. At the solution it also
gives ``J = ∂q/∂p = diag(h) − λ diag(h) F (I + λ Fᵀ diag(h) F)⁻¹ Fᵀ diag(h)``, which is the Woodbury form of H⁻¹.

Source: the second-order sparsity of Li, Sun and Toh, "A highly efficient semismooth Newton augmented Lagrangian method
for solving Lasso problems", SIAM J. Optim. 28 (2018), doi:10.1137/16M1097572.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.cost import Cost, exposures, loadings
from alignray.costs.terms import over_rows
from alignray.solver.certificate import kkt_residual
from alignray.solver.separable import Separable

_SUFFICIENT_DECREASE = 1e-4  # Armijo's constant
_MAX_HALVINGS = 40


@dataclass(frozen=True, slots=True, eq=False)
class DualNewton:
    """Solves and differentiates one cost on one batch of factors, in float64.

    Attributes:
        cost: The cost; its strengths broadcast to the batch shape.
        F: Factors ``[..., n, k]``, or None.
    """

    cost: Cost
    F: Tensor | None

    def solve(
        self, p: Tensor, *, tol: float, max_iter: int, start: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        """Solve the batch.

        Args:
            p: Predictions ``[..., n]``.
            tol: The KKT residual to reach.
            max_iter: Newton steps at most.
            start: Duals ``[..., k]`` to start from, or None.

        Returns:
            ``q [..., n]``, the dual ``[..., k]`` (None without factors), the residual and the Newton steps ``[...]``.
        """
        separable = Separable.of(self.cost)
        iterations = torch.zeros(p.shape[:-1], dtype=torch.int64, device=p.device)
        if self.F is None or not self.cost.uses_factors:
            q = separable.argmax(p)
            return q, None, kkt_residual(self.cost, q, p, self.F), iterations
        nu = p.new_zeros(*p.shape[:-1], self.F.shape[-1]) if start is None else start
        q = separable.argmax(p - self._loadings(nu))
        residual = kkt_residual(self.cost, q, p, self.F)
        stuck = torch.zeros_like(residual, dtype=torch.bool)
        for _ in range(max_iter):
            running = (residual > tol) & ~stuck
            if not bool(running.any()):
                break
            gradient = nu - self._exposures(q)
            step = torch.where(running.unsqueeze(-1), -self._solve_hessian(q, gradient), 0.0)
            # Where rounding has spoilt the factorisation there is no step: the element stays finite, and unconverged.
            stuck = stuck | ~step.isfinite().all(-1)
            step = torch.where(stuck.unsqueeze(-1), 0.0, step)
            nu, q = self._search(separable, p, nu, q, step, (gradient * step).sum(-1))
            residual = torch.where(running, kkt_residual(self.cost, q, p, self.F), residual)
            iterations = iterations + running
        return q, nu, residual, iterations

    def adjoint(self, q: Tensor, g: Tensor) -> Tensor:
        """``J g`` at the solution q, for g ``[..., n]``; J is symmetric, so this is the adjoint too."""
        h = Separable.of(self.cost).compliance(q)
        response = h * g
        if self.F is None or not self.cost.uses_factors:
            return response
        return response - h * self._loadings(self._solve_hessian(q, self._exposures(response)))

    def _search(
        self, separable: Separable, p: Tensor, nu: Tensor, q: Tensor, step: Tensor, slope: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The longest of the steps 1, ½, ¼, … that lowers the dual enough, element by element."""
        value = self._dual_value(separable, p, nu, q)
        rounding = 64 * torch.finfo(p.dtype).eps * (1 + value.abs())
        length = torch.ones_like(value)
        for _ in range(_MAX_HALVINGS):
            trial = nu + length.unsqueeze(-1) * step
            trial_q = separable.argmax(p - self._loadings(trial))
            descent = self._dual_value(separable, p, trial, trial_q) - value
            short = (descent > _SUFFICIENT_DECREASE * length * slope + rounding) | ~trial_q.isfinite().all(-1)
            if not bool(short.any()):
                break
            length = torch.where(short, length / 2, length)
        return trial, trial_q

    def _dual_value(self, separable: Separable, p: Tensor, nu: Tensor, q: Tensor) -> Tensor:
        conjugate = ((p - self._loadings(nu)) * q).sum(-1) - separable.value(q)
        return conjugate + 0.5 * nu.square().sum(-1)

    def _solve_hessian(self, q: Tensor, right: Tensor) -> Tensor:
        """``(I + λ Fᵀ diag(h) F)⁻¹ r`` for r ``[..., k]``; NaN for the elements that rounding has made indefinite."""
        assert self.F is not None
        h = Separable.of(self.cost).compliance(q)
        weighted = self.F * (h * over_rows(self.cost.factor_strength)).unsqueeze(-1)
        gram = weighted.mT @ self.F
        gram.diagonal(dim1=-2, dim2=-1).add_(1.0)
        # Not `cholesky`: that raises for the whole batch, and waits for the device to do so.
        factor, info = torch.linalg.cholesky_ex(gram)
        solved = torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)
        broken = (info > 0).unsqueeze(-1)
        return torch.where(broken, torch.where(right == 0, 0.0, torch.nan), solved)

    def _root_strength(self) -> float | Tensor:
        strength = over_rows(self.cost.factor_strength)
        return strength.sqrt() if isinstance(strength, Tensor) else float(strength) ** 0.5

    def _exposures(self, x: Tensor) -> Tensor:
        assert self.F is not None
        return self._root_strength() * exposures(self.F, x)

    def _loadings(self, nu: Tensor) -> Tensor:
        assert self.F is not None
        return loadings(self.F, self._root_strength() * nu)
