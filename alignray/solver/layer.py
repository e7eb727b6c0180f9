"""The layer: validation, choice of backend, differentiation, certificate."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from alignray.costs.arguments import batch_shape
from alignray.costs.cost import Cost
from alignray.costs.terms import Term
from alignray.errors import InvalidArgumentError, UnconvergedError
from alignray.solver.certificate import kkt_residual
from alignray.solver.cvxpylayers import CvxpyBackend
from alignray.solver.dual_newton import DualNewton
from alignray.solver.solution import Solution

Backend: TypeAlias = Literal["native", "cvxpylayers"]
OnFailure: TypeAlias = Literal["raise", "nan"]

_REFERENCE_REST = 1e-6  # a first-order or interior point method leaves about this much on a row that rests at a kink
_REFERENCE_TOL = 1e-6


class SolverLayer(nn.Module):
    """``q(p) = argmax_x p·x − C(x)`` as a differentiable layer.

    All arithmetic is float64, whatever the precision of the prediction; the decision comes back in the prediction's.

    Args:
        cost: The cost C, or a single term.
        backend: ``"native"``, or ``"cvxpylayers"``, the reference.
        tol: The KKT residual that counts as converged (the reference backend is held to no less than 1e-6).
        max_iter: Newton steps at most.
        on_failure: What an unconverged solve does: ``"raise"``, naming the eras, or ``"nan"`` in just those.
        solver_args: Passed to cvxpylayers (``solver=`` too); native has none.

    Raises:
        CostError: The cost is not strongly convex.
        InvalidArgumentError: An option does not exist.
    """

    def __init__(
        self,
        cost: Cost | Term,
        backend: Backend = "native",
        *,
        tol: float = 1e-8,
        max_iter: int = 100,
        on_failure: OnFailure = "raise",
        solver_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        _require_option("backend", backend, ("native", "cvxpylayers"))
        _require_option("on_failure", on_failure, ("raise", "nan"))
        if not tol > 0:
            raise InvalidArgumentError(f"tol: expected a number above 0, got {tol}")
        if max_iter < 1:
            raise InvalidArgumentError(f"max_iter: expected at least 1, got {max_iter}")
        if backend == "native" and solver_args:
            raise InvalidArgumentError(
                f"solver_args: expected none with backend='native', got {dict(solver_args)}; "
                "use tol and max_iter, or backend='cvxpylayers'"
            )
        self.cost = Cost.of(cost)
        self.cost.require_strong_convexity()
        self.backend: Backend = backend
        self.tol, self.max_iter, self.on_failure = tol, max_iter, on_failure
        self._reference = CvxpyBackend(self.cost, solver_args) if backend == "cvxpylayers" else None

    def forward(
        self, p: Tensor, F: Tensor | None = None, mask: Tensor | None = None, warm: Solution | None = None
    ) -> Solution:
        """Solve a batch of eras.

        Args:
            p: Predictions ``[..., n]``, float32 or float64.
            F: Factors ``[..., n, k]`` (its batch axes may be fewer than those of p), or None.
            mask: Rows that exist, bool ``[..., n]``, or None for all. The others get q = 0 and pass no gradient.
            warm: An earlier solution to start from; elements of it that are not finite start cold.

        Returns:
            The decisions with their certificate.

        Raises:
            InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
            CostError: A strength has become negative, or is no longer finite.
            UnconvergedError: A solve did not converge and ``on_failure`` is ``"raise"``.
        """
        problem = _Problem.of(self.cost, p, F, mask)
        if self._reference is not None:
            solution = self._solve_reference(self._reference, problem)
        else:
            solution = self._solve_native(problem, warm)
        return self._certify(solution, p.dtype)

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.cost.strengths}, backend={self.backend!r}, tol={self.tol}"

    def _solve_native(self, problem: _Problem, warm: Solution | None) -> Solution:
        start = None if warm is None else problem.start(warm)
        with torch.no_grad():
            newton = DualNewton(_detached(problem.cost), problem.F)
            q, dual, residual, iterations = newton.solve(
                problem.p.detach(), tol=self.tol, max_iter=self.max_iter, start=start
            )
        if torch.is_grad_enabled():
            # q* is a fixed point of q ← q* + J (p − ∇C(q*)): a step of 0 with the implicit derivative, in p and in θ.
            surplus = problem.p - problem.cost.gradient(q, problem.F)
            if surplus.requires_grad:
                q = cast("Tensor", _ImplicitStep.apply(surplus, q, newton))  # type: ignore[no-untyped-call]
        return Solution(q, residual, iterations, residual <= self.tol, dual)

    def _solve_reference(self, backend: CvxpyBackend, problem: _Problem) -> Solution:
        q = backend.solve(problem.p, problem.F)
        if problem.mask is not None:
            q = torch.where(problem.mask, q, 0.0)
        with torch.no_grad():
            residual = kkt_residual(problem.cost, q, problem.p, problem.F, rest=_REFERENCE_REST)
        iterations = torch.zeros(residual.shape, dtype=torch.int64, device=residual.device)
        return Solution(q, residual, iterations, residual <= max(self.tol, _REFERENCE_TOL))

    def _certify(self, solution: Solution, dtype: torch.dtype) -> Solution:
        q = solution.q.to(dtype)
        if not bool(solution.converged.all()):
            failed = ~solution.converged
            if self.on_failure == "raise":
                eras = [tuple(index) for index in failed.nonzero().tolist()]
                worst = float(solution.residual[failed].max())
                effort, remedy = f"tol={self.tol:g} in {self.max_iter} steps", "raise max_iter or tol"
                if self._reference is not None:
                    effort, remedy = f"tol={max(self.tol, _REFERENCE_TOL):g}", "change solver_args, raise tol"
                raise UnconvergedError(
                    f"{len(eras)} of {failed.numel()} solves did not reach {effort} "
                    f"(worst residual {worst:.3g}), at batch indices {eras[:8]}{' …' if len(eras) > 8 else ''}; "
                    f"{remedy}, or use on_failure='nan'"
                )
            q = torch.where(failed.unsqueeze(-1), torch.nan, q)
        return Solution(q, solution.residual, solution.iterations, solution.converged, solution.dual)


class _ImplicitStep(torch.autograd.Function):
    """The identity on q whose derivative in the surplus ``p − ∇C(q)`` is J."""

    @staticmethod
    def forward(ctx: Any, surplus: Tensor, q: Tensor, newton: DualNewton) -> Tensor:  # noqa: ARG004
        ctx.save_for_backward(q)
        ctx.newton = newton
        return q.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None]:
        (q,) = ctx.saved_tensors
        return ctx.newton.adjoint(q, g), None, None


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    """One batch, validated, masked and in float64: ``p [..., n]`` and ``F [..., n, k]`` with the batch shape on p."""

    cost: Cost
    p: Tensor
    F: Tensor | None
    mask: Tensor | None

    @classmethod
    def of(cls, cost: Cost, p: Tensor, F: Tensor | None, mask: Tensor | None) -> _Problem:
        batch = batch_shape(F, mask, p=p)
        if p.dtype not in (torch.float32, torch.float64):
            raise InvalidArgumentError(f"p: expected float32 or float64, got {p.dtype}")
        if F is not None and F.is_complex():
            raise InvalidArgumentError(f"F: expected real numbers, got {F.dtype}")
        if F is None and cost.uses_factors:
            raise InvalidArgumentError("F: expected factors [..., n, k], since the cost has a factor_penalty; got None")
        batch = _with_strengths(batch, cost, p.device)
        cost = _in_float64(cost, p.device)
        p = p.to(torch.float64).expand(*batch, p.shape[-1])
        F = None if F is None else F.detach().to(torch.float64)
        if mask is not None:
            p = torch.where(mask, p, 0.0)
            F = None if F is None else torch.where(mask.unsqueeze(-1), F, 0.0)
        for name, values in (("p", p), ("F", F)):
            if values is not None and not bool(torch.isfinite(values).all()):
                bad = int((~torch.isfinite(values)).sum())
                raise InvalidArgumentError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")
        return cls(cost, p, F, mask)

    def start(self, warm: Solution) -> Tensor | None:
        """The duals of an earlier solution as ``[..., k]`` of this problem; 0, a cold start, where not finite."""
        if warm.dual is None or self.F is None or not self.cost.uses_factors:
            return None
        shape = (*self.p.shape[:-1], self.F.shape[-1])
        dual = warm.dual.detach().to(self.p)
        try:
            dual = dual.reshape(*dual.shape[:-1], shape[-1]).expand(shape)
        except RuntimeError:
            raise InvalidArgumentError(
                f"warm: expected a solution with duals of shape {list(shape)}, got {list(dual.shape)}"
            ) from None
        return torch.where(dual.isfinite().all(-1, keepdim=True), dual, 0.0)


def _with_strengths(batch: torch.Size, cost: Cost, device: torch.device) -> torch.Size:
    for name, strength in cost.strengths.items():
        if isinstance(strength, Tensor):
            if strength.dim() and strength.device != device:
                raise InvalidArgumentError(f"{name}: expected the device of p, {device}, got {strength.device}")
            try:
                batch = torch.broadcast_shapes(batch, strength.shape)
            except RuntimeError:
                raise InvalidArgumentError(
                    f"{name}: expected a shape that broadcasts to the batch {list(batch)}, got {list(strength.shape)}"
                ) from None
    return batch


def _in_float64(cost: Cost, device: torch.device) -> Cost:
    """The same cost with its tensors in float64: a root or a sum in float32 would cap the accuracy of the solve."""

    def convert(term: Term) -> Term:
        strength = term.strength
        # `replace` checks the value again: a strength that is learned may have become negative.
        return replace(term, strength=strength.to(device, torch.float64)) if isinstance(strength, Tensor) else term

    converted = Cost(tuple(convert(term) for term in cost.terms))
    if any(isinstance(strength, Tensor) for strength in cost.strengths.values()):
        converted.require_strong_convexity()
    return converted


def _detached(cost: Cost) -> Cost:
    """The same cost with strengths that carry no gradient."""

    def detach(term: Term) -> Term:
        strength = term.strength
        return replace(term, strength=strength.detach()) if isinstance(strength, Tensor) else term

    return Cost(tuple(detach(term) for term in cost.terms))


def _require_option(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise InvalidArgumentError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
