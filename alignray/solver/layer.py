"""The layer: validation, choice of backend, differentiation, certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

import torch
from torch import Tensor, nn

from alignray.costs.cost import Cost
from alignray.costs.factors import Factors
from alignray.costs.term import SeparableTerm, Term, is_number, over_rows
from alignray.costs.terms import Box, FactorNeutral, FactorPenalty, SumNeutral
from alignray.errors import CostError, InvalidArgumentError, UnconvergedError
from alignray.solver.certificate import kkt_residual
from alignray.solver.cvxpylayers import CvxpyBackend
from alignray.solver.native import NativeSolve
from alignray.solver.problem import Problem
from alignray.solver.separable import Separable
from alignray.solver.solution import Solution

Backend: TypeAlias = Literal["native", "cvxpylayers"]
OnFailure: TypeAlias = Literal["raise", "nan"]

_REFERENCE_TOL = 1e-6
_ADJOINT_TOL = 1e-7


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
        CostError: The cost is not strongly convex, or has a term that the native solver does not know.
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
        if not (is_number(tol) and tol > 0):
            raise InvalidArgumentError(f"tol: expected a number above 0, got {tol!r}")
        if not (isinstance(max_iter, int) and max_iter >= 1):
            raise InvalidArgumentError(f"max_iter: expected a whole number of at least 1, got {max_iter!r}")
        if not isinstance(solver_args, Mapping | None):
            raise InvalidArgumentError(f"solver_args: expected options by name, got {solver_args!r}")
        if backend == "native" and solver_args:
            raise InvalidArgumentError(
                f"solver_args: expected none with backend='native', got {dict(solver_args)}; "
                "use tol and max_iter, or backend='cvxpylayers'"
            )
        self.cost = Cost.of(cost)
        self.cost.require_strong_convexity()
        self.backend: Backend = backend
        self.tol, self.max_iter, self.on_failure = tol, max_iter, on_failure
        if backend == "native":
            _require_native(self.cost)
        self._solver_args = solver_args
        self._reference = CvxpyBackend(self.cost, solver_args) if backend == "cvxpylayers" else None

    def forward(
        self,
        p: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        warm: Solution | Tensor | None = None,
        previous: Tensor | None = None,
    ) -> Solution:
        """Solve a batch of eras.

        Args:
            p: Predictions ``[..., n]``, float32 or float64.
            F: Factors ``[..., n, k]`` (its batch axes may be fewer than those of p), or None.
            mask: Rows that exist, bool ``[..., n]``, or None for all. The others get q = 0 and pass no gradient.
            warm: An earlier solution to start from, or its duals ``[..., c]``. Elements of them that are 0, or not
                finite, start cold.
            previous: The decision before this one ``[..., n]``, for `Turnover`; None for nothing held.

        Returns:
            The decisions with their certificate.

        Raises:
            InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
            CostError: A strength has become negative, or is no longer finite.
            UnconvergedError: A solve did not converge and ``on_failure`` is ``"raise"``; in the backward pass too.
        """
        problem = Problem.of(self.cost, p, F, mask, previous)
        if not isinstance(warm, Solution | Tensor | None):
            raise InvalidArgumentError(f"warm: expected a Solution, or its dual, got {type(warm).__name__}")
        if self._reference is not None:
            solution = self._solve_reference(self._reference, problem)
        else:
            solution = self._solve_native(problem, warm.dual if isinstance(warm, Solution) else warm)
        return self._certify(solution, p.dtype)

    def with_cost(self, cost: Cost | Term) -> SolverLayer:
        """A layer of another cost, its options the same.

        Raises:
            CostError: As for a new layer.
        """
        return SolverLayer(
            cost,
            self.backend,
            tol=self.tol,
            max_iter=self.max_iter,
            on_failure=self.on_failure,
            solver_args=self._solver_args,
        )

    def extra_repr(self) -> str:
        """The options that differ from layer to layer."""
        return f"{self.cost.strengths}, backend={self.backend!r}, tol={self.tol}"

    def _solve_native(self, problem: Problem, warm: Tensor | None) -> Solution:
        start = None if warm is None else _start(problem, warm)
        with torch.no_grad():
            solve = NativeSolve.of(problem, tol=self.tol, max_iter=self.max_iter, start=start)
            residual = kkt_residual(
                problem.cost,
                solve.q,
                problem.p,
                problem.factors,
                problem.mask,
                problem.previous,
                dual=solve.dual,
            )
        q = solve.q
        if torch.is_grad_enabled():
            alone = _rows_alone(problem, solve)
            if alone.requires_grad:
                q = cast("Tensor", _Coupled.apply(alone, q, solve, self.on_failure))  # type: ignore[no-untyped-call]
        return Solution(q, residual, solve.iterations, residual <= self.tol, solve.dual)

    def _solve_reference(self, backend: CvxpyBackend, problem: Problem) -> Solution:
        q, residual = backend.solve(problem.p, problem.factors, problem.previous, problem.mask)
        if problem.mask is not None:
            q = torch.where(problem.mask, q, 0.0)
        iterations = torch.zeros(residual.shape, dtype=torch.int64, device=residual.device)
        return Solution(q, residual, iterations, residual <= max(self.tol, _REFERENCE_TOL))

    def _certify(self, solution: Solution, dtype: torch.dtype) -> Solution:
        q = solution.q.to(dtype)
        if not bool(solution.converged.all()):
            failed = ~solution.converged
            if self.on_failure == "raise":
                worst = float(solution.residual[failed].max())
                effort, remedy = f"tol={self.tol:g} in {self.max_iter} steps", "raise max_iter or tol"
                if self._reference is not None:
                    effort, remedy = f"tol={max(self.tol, _REFERENCE_TOL):g}", "change solver_args, raise tol"
                raise UnconvergedError(
                    f"{int(failed.sum())} of {failed.numel()} solves did not reach {effort} "
                    f"(worst residual {worst:.3g}), at batch indices {_indices(failed)}; "
                    f"{remedy}, or use on_failure='nan'"
                )
            q = torch.where(failed.unsqueeze(-1), torch.nan, q)
        return Solution(q, solution.residual, solution.iterations, solution.converged, solution.dual)


def _rows_alone(problem: Problem, solve: NativeSolve) -> Tensor:
    """q, with the derivative that it would have if the dual did not answer: each row's move by itself.

    A row that moves follows ``h (p − ∇C(q))`` in p and in the strengths; one that rests follows what holds it.
    """
    q, cost = solve.q, problem.cost
    surplus = problem.p
    learned = any(isinstance(strength, Tensor) and strength.requires_grad for strength in cost.strengths.values())
    if learned or (problem.previous is not None and problem.previous.requires_grad):
        separable = Separable.of(cost, problem.previous, problem.mask)
        surplus = surplus - separable.slope(q)
        if problem.factors is not None:
            exposures = problem.factors.exposures(q)
            surplus = surplus - problem.factors.loadings(over_rows(cost.factor_strength) * exposures)
        anchor = separable.anchor(q)
        if anchor is not None:
            return anchor + solve.compliance() * (surplus - surplus.detach())
    if not surplus.requires_grad:
        return q
    return q + solve.compliance() * (surplus - surplus.detach())


class _Coupled(torch.autograd.Function):
    """The identity on q whose derivative, in what the rows would do alone, is what they do together."""

    @staticmethod
    def forward(ctx: Any, alone: Tensor, q: Tensor, solve: NativeSolve, on_failure: OnFailure) -> Tensor:  # noqa: ARG004
        ctx.solve, ctx.on_failure = solve, on_failure
        return q.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, None, None, None]:
        gradient, residual = ctx.solve.adjoint(g)
        failed = ~(residual <= _ADJOINT_TOL)
        if bool(failed.any()):
            if ctx.on_failure == "raise":
                worst = float(residual.nan_to_num(nan=torch.inf).max())
                raise UnconvergedError(
                    f"{int(failed.sum())} of {failed.numel()} derivatives did not reach {_ADJOINT_TOL:g} "
                    f"(worst residual {worst:.3g}), at batch indices {_indices(failed)}; "
                    "scale F or the strengths, or use on_failure='nan'"
                )
            gradient = torch.where(failed.unsqueeze(-1), torch.nan, gradient)
        return gradient, None, None, None


def _start(problem: Problem, warm: Tensor) -> Tensor | None:
    """The duals of an earlier solution as ``[..., c]`` of this problem; 0, a cold start, where not finite."""
    if not problem.num_duals:
        return None
    shape = (*problem.batch, problem.num_duals)
    dual = warm.detach().to(problem.p)
    try:
        dual = dual.expand(shape) if dual.shape[-1] == shape[-1] else dual.expand(0)
    except RuntimeError:
        raise InvalidArgumentError(
            f"warm: expected a solution with duals of shape {list(shape)}, got {list(dual.shape)}"
        ) from None
    start = torch.where(dual.isfinite().all(-1, keepdim=True), dual, 0.0)
    return start if bool(start.any()) else None  # where all start cold, it saves a pass over F


def _indices(failed: Tensor) -> str:
    eras = [tuple(index) for index in failed.nonzero().tolist()]
    return f"{eras[:8]}{' …' if len(eras) > 8 else ''}"


def _require_native(cost: Cost) -> None:
    for term in cost.terms:
        if not isinstance(term, SeparableTerm | FactorPenalty | FactorNeutral | SumNeutral | Box):
            raise CostError(
                f"cost: expected terms that the native solver knows, got {term.name}; use backend='cvxpylayers', "
                "or make it a SeparableTerm"
            )


def _require_option(name: str, value: str, options: tuple[str, ...]) -> None:
    if value not in options:
        raise InvalidArgumentError(f"{name}: expected one of {', '.join(map(repr, options))}, got {value!r}")
