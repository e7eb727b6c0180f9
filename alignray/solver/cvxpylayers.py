"""The reference backend: the same problem through CVXPY and cvxpylayers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.costs.custom import CvxpyTerm
from alignray.costs.factors import Factors
from alignray.costs.term import CvxpyDecision, Term
from alignray.errors import CostError, InvalidArgumentError

_DENSE_ROWS = 400
"""Up to this many rows the KKT system of the derivative is solved densely: LSQR leaves errors of about 1e-5."""
_DERIVATIVE_OPTIONS = ("mode", "n_jobs_backward")
"""What diffcp takes where a derivative is asked for, and refuses where none is."""
_DEFAULTS: dict[str, dict[str, Any]] = {
    "SCS": {"eps": 1e-10, "max_iters": 100_000},
    # A gap out of reach: the error in q is its root, and Clarabel returns what it has once it makes no progress.
    "CLARABEL": {"tol_gap_abs": 1e-16, "tol_gap_rel": 1e-16},
    # Its active-set method, which it may choose by itself, leaves 1e-6, and warns of its gradients.
    "MOREAU": {"solver": "ipm", "ipm_settings": {"tol_gap_abs": 1e-13, "tol_gap_rel": 1e-13, "tol_feas": 1e-13}},
}
"""What each solver is held to where ``solver_args`` does not say."""
_GIVEN_UP = 1e-3
"""The conic residual from which a solver has given up: Clarabel and Moreau return their last iterate, silently."""


class CvxpyBackend:
    """Solves a cost by a cvxpylayers layer, one layer for each size ``(n, k)``.

    It is not safe to share between threads, since CVXPY's parameters and Moreau's solver are not.

    Args:
        cost: The cost; its tunable numbers, the factors and the previous decision are CVXPY parameters.
        solver_args: What goes to cvxpylayers, over accurate defaults. ``solver=`` names the solver: None or
            ``"DIFFCP"``, with ``solve_method="SCS"`` (the default) or ``"Clarabel"``, or ``"MOREAU"``, which needs the
            extra ``moreau``. The rest are that solver's own options.
    """

    def __init__(self, cost: Cost, solver_args: Mapping[str, Any] | None) -> None:
        self._cost = cost
        self._solver, self._arguments, self._derivative_arguments = _arguments(solver_args or {})
        self._custom = any(isinstance(term, CvxpyTerm) for term in cost.terms)
        self._compiled: dict[tuple[int, int, bool], _Compiled] = {}

    def solve(
        self, p: Tensor, F: Factors | None, previous: Tensor | None = None, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Decisions, differentiable in p and in the strengths, with their certificate.

        The certificate is the KKT residual of the conic problem that the solver was given, ``min ½ xᵀPx + cᵀx`` with
        ``s = b − Ax ∈ K``, at the solver's x and multipliers y: the largest entry of ``Px + c + Aᵀy`` and of
        ``s − Π_K(s − y)``, in units of ``max(1, ‖b‖∞, ‖c‖∞)``. Both are 0 at the optimum alone. The second is of the
        order of the error in q, as a duality gap is not: where a quadratic has become a cone, q is off by its root.

        Args:
            p: Predictions ``[..., n]``, float64.
            F: Factors ``[..., n, k]``, whose batch axes may be fewer or of size 1; None for none.
            previous: Decisions before this one ``[..., n]``, likewise; None for nothing held.
            mask: Rows that exist ``[..., n]``, bool, likewise; None for all. The others are held at 0.

        Returns:
            The decisions ``[..., n]``, NaN for the eras that the solver gives up on, and their residuals ``[...]``,
            infinite there.

        Raises:
            CostError: A term has no CVXPY expression that meets the DPP rules, or the constraints contradict one
                another whatever the factors and the previous decision.
            InvalidArgumentError: The solver does not exist, does not take the problem or refuses an option.
        """
        batch, n = p.shape[:-1], p.shape[-1]
        size, k = math.prod(batch), F.shape[-1] if F is not None and self._cost.uses_factors else 0
        if not size:
            return p.clone(), p.new_zeros(batch)
        key = (n, k, mask is not None)
        if key not in self._compiled:
            self._compiled[key] = self._compile(*key)
        compiled = self._compiled[key]
        given = {"p": p, **self._cost.strengths}
        if F is not None and "F" in compiled.parameters:
            given["F"] = _dense(F)
        given["previous"] = torch.zeros_like(p) if previous is None else previous
        if mask is not None:
            given["mask"] = mask
        values = []
        for name, parameter in compiled.parameters.items():
            value = torch.as_tensor(given[name], dtype=torch.float64)
            values.append(value.broadcast_to((*batch, *parameter.shape)).reshape(size, *parameter.shape).cpu())
        q, residual = self._apply(compiled, values)
        failed = residual.isinf().nonzero()
        if self._custom and len(failed):
            compiled.require_feasible([value[int(failed[0])] for value in values])
        q, residual = q.to(p).reshape(*batch, n), residual.to(p).reshape(batch)
        q = q if mask is None else torch.where(mask, q, torch.where(q.isnan(), q, 0.0))
        return q, residual

    def _apply(self, compiled: _Compiled, values: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Decisions ``[size, n]`` and residuals ``[size]``; one that fails only costs the others a second solve."""
        from diffcp import SolverError  # type: ignore[import-untyped]

        size, n = values[0].shape
        differentiated = torch.is_grad_enabled() and any(value.requires_grad for value in values)
        try:
            with torch.set_grad_enabled(differentiated):
                q, x, y = compiled.layer(*values, solver_args=self._derivative(n) if differentiated else {})
        except (SolverError, RuntimeError):  # diffcp's own solvers and its derivative, and Moreau
            if size == 1:
                return values[0].new_full((1, n), torch.nan), values[0].new_full((1,), torch.inf)
            halves = slice(size // 2), slice(size // 2, None)
            parts = [self._apply(compiled, [value[half] for value in values]) for half in halves]
            return torch.cat([q for q, _ in parts]), torch.cat([residual for _, residual in parts])
        except (ValueError, TypeError, AttributeError, ImportError) as error:
            raise InvalidArgumentError(
                f"solver_args: expected options that the solver {self._solver} has, got {self._arguments} ({error})"
            ) from error
        residual = compiled.residual(values, x.detach(), y.detach())
        failed = ~(residual <= _GIVEN_UP)
        residual = torch.where(failed, torch.inf, residual)
        if not failed.any() or not differentiated:
            return torch.where(failed.unsqueeze(-1), torch.nan, q), residual
        # Out of the graph with those that failed: the derivative of one may raise, and take the batch along.
        q, solved = torch.full_like(values[0], torch.nan), ~failed
        if solved.any():
            again, residual[solved] = self._apply(compiled, [value[solved] for value in values])
            q = q.detach().index_put((solved,), again)
        return q, residual

    def _derivative(self, n: int) -> dict[str, Any]:
        if self._solver != "DIFFCP":
            return {}
        return {"mode": "dense" if n <= _DENSE_ROWS else "lsqr", **self._derivative_arguments}

    def _compile(self, n: int, k: int, masked: bool) -> _Compiled:
        import cvxpy as cp
        import numpy as np

        parameters: dict[str, Any] = {"p": cp.Parameter(n)}
        # Held at parameters, since the product of a strength and of what reads another parameter would not be DPP.
        exposures = cp.Variable(k, name="exposures") if k else cp.Constant(np.zeros(0))
        decision = CvxpyDecision(cp.Variable(n, name="x"), exposures, cp.Variable(n, name="previous"))
        cost: Any = 0
        constraints: list[Any] = []
        for name, term in self._cost.named_terms.items():
            tunable = {f"{name}.{field}": cp.Parameter(nonneg=True) for field in term.tunable}
            expression = term.cvxpy(decision, *tunable.values())
            limits = term.cvxpy_constraints(decision, *tunable.values())
            _require_dpp(term, cp.Problem(cp.Minimize(expression), limits))
            parameters |= tunable
            cost, constraints = cost + expression, constraints + limits
        read = {variable.id for variable in cp.Problem(cp.Minimize(cost), constraints).variables()}
        held = []
        if k and exposures.id in read:
            parameters["F"] = cp.Parameter((n, k))
            held.append(exposures == parameters["F"].T @ decision.x)
        if decision.previous.id in read:
            parameters["previous"] = cp.Parameter(n)
            held.append(decision.previous == parameters["previous"])
        if masked:
            parameters["mask"] = cp.Parameter(n, nonneg=True)
            held.append(cp.multiply(1 - parameters["mask"], decision.x) == 0)
        problem = cp.Problem(cp.Minimize(cost - parameters["p"] @ decision.x), constraints + held)
        # A tunable number may be unread (the strength of a penalty on no factors), and would be one too many.
        used = {parameter.id for parameter in problem.parameters()}
        parameters = {name: parameter for name, parameter in parameters.items() if parameter.id in used}
        layer = self._layer(problem, parameters, decision.x)
        return _Compiled(
            layer, self._solver, cp.Problem(problem.objective, problem.constraints), constraints, parameters
        )

    def _layer(self, problem: Any, parameters: dict[str, Any], x: Any) -> Any:
        """The cvxpylayers layer from the parameters to x, and to the conic problem's solution and multipliers."""
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer
        from cvxpylayers.utils.parse_args import VariableRecovery

        try:
            with _slack_cones_only():
                layer = CvxpyLayer(
                    problem, list(parameters.values()), [x], solver=self._solver, solver_args=self._arguments
                )
        except (cp.SolverError, RuntimeError, ImportError) as error:
            raise InvalidArgumentError(
                "solver_args: expected a solver that cvxpylayers has and that takes this problem, solver='DIFFCP' with "
                f"solve_method='SCS' or 'Clarabel', or solver='MOREAU'; got {self._solver!r} ({error})"
            ) from error
        rows, columns, every = sum(_cone_sizes(layer.ctx.cone_dims)), layer.ctx.q.shape[0] - 1, slice(None)
        layer.ctx.var_recover.append(VariableRecovery(every, None, (columns,)))
        layer.ctx.var_recover.append(VariableRecovery(None, every, (rows,), source="dual"))
        return layer


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """A problem of one size, ready to solve.

    Attributes:
        layer: From values of the parameters to the decision, and to x and y of the conic problem.
        solver: For whom the conic problem is written.
        problem: The same problem, apart: cvxpylayers permutes the arrays of its own.
        constraints: Those of the terms, without what ties the exposures and the previous decision to data.
        parameters: By their names, in the order of the layer.
    """

    layer: Any
    solver: str
    problem: Any
    constraints: list[Any]
    parameters: dict[str, Any]

    def residual(self, values: list[Tensor], x: Tensor, y: Tensor) -> Tensor:
        """The conic residual of each era, ``[size]``, at ``x [size, columns]`` and ``y [size, rows]``."""
        found = []
        for era in range(len(x)):
            self._set([value[era] for value in values])
            with _slack_cones_only():
                data, _, _ = self.problem.get_problem_data(solver=self.solver)
            found.append(_conic_residual(data, x[era].numpy(), y[era].numpy()))
        return torch.tensor(found, dtype=torch.float64)

    def require_feasible(self, values: list[Tensor]) -> None:
        """Check that the constraints of the terms do not contradict one another, whatever the data.

        Raises:
            CostError: They do.
        """
        import cvxpy as cp

        self._set(values)
        problem = cp.Problem(cp.Minimize(0), self.constraints)
        try:
            problem.solve(solver=cp.CLARABEL)
        except cp.SolverError:
            return
        if problem.status in (cp.INFEASIBLE, cp.INFEASIBLE_INACCURATE):
            raise CostError(
                f"constraints of {CvxpyTerm.name}: expected a feasible problem, got ones that no decision meets: "
                f"{', '.join(map(str, self.constraints))}"
            )

    def _set(self, values: list[Tensor]) -> None:
        for parameter, value in zip(self.parameters.values(), values, strict=True):
            parameter.value = value.detach().numpy()


@contextmanager
def _slack_cones_only() -> Iterator[None]:
    """Keep CVXPY from giving Moreau cones apart from ``b − Ax ∈ K``: cvxpylayers 1.2.0 drops them, silently."""
    from cvxpy.reductions.solvers.conic_solvers.moreau_conif import MOREAU

    kinds: frozenset[str] = getattr(MOREAU, "DIR_CONE_KINDS", frozenset())  # CVXPY 1.9.0 has none yet
    MOREAU.DIR_CONE_KINDS = frozenset()
    try:
        yield
    finally:
        MOREAU.DIR_CONE_KINDS = kinds


def _arguments(given: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The solver, its arguments over the defaults, and those of its derivative."""
    arguments = {name: value for name, value in given.items() if name not in _DERIVATIVE_OPTIONS}
    derivative = {name: value for name, value in given.items() if name in _DERIVATIVE_OPTIONS}
    solver = arguments.pop("solver", None) or "DIFFCP"
    if solver == "DIFFCP":
        arguments.setdefault("solve_method", "SCS")
    defaults = _DEFAULTS.get(str(arguments.get("solve_method", solver)).upper(), {})
    if {"eps_abs", "eps_rel"} & set(arguments):
        defaults = {name: value for name, value in defaults.items() if name != "eps"}  # diffcp would put it over them
    if isinstance(arguments.get("ipm_settings"), Mapping):
        arguments["ipm_settings"] = {**defaults.get("ipm_settings", {}), **arguments["ipm_settings"]}
    return solver, {**defaults, **arguments}, derivative


def _require_dpp(term: Term, problem: Any) -> None:
    if not problem.is_dcp():
        raise CostError(f"{term.name}: expected a convex CVXPY expression by the DCP rules, got {problem}")
    if not problem.is_dpp():
        raise CostError(f"{term.name}: expected a CVXPY expression that meets the DPP rules, got {problem}")


def _dense(F: Factors) -> Tensor:
    scale, offset = (torch.as_tensor(value, dtype=torch.float64, device=F.device) for value in (F.scale, F.offset))
    return F.codes.to(torch.float64) * scale + offset


def _conic_residual(data: Mapping[str, Any], x: Any, y: Any) -> float:
    """How far x and y are from solving ``min ½ xᵀPx + cᵀx, b − Ax ∈ K``; NaN where they are not numbers."""
    import numpy as np

    A, b, c = data["A"], data["b"], data["c"]
    if data.get("dir_cones"):
        return math.nan  # cones that the solver was not told of: see `_slack_cones_only`
    with np.errstate(all="ignore"):
        curved = data["P"] @ x if data.get("P") is not None else 0.0
        stationarity = curved + c + A.T @ y
        slack = b - A @ x
        complementarity = slack - _projection(slack - y, data["dims"])
        largest = np.abs(np.concatenate([stationarity, complementarity])).max()
        return float(largest / max(1.0, np.abs(np.concatenate([b, c])).max()))


def _projection(v: Any, cones: Any) -> Any:
    """The point of the cones that is nearest to v."""
    import numpy as np
    from diffcp.cones import EXP, PSD, pi  # type: ignore[import-untyped]

    zero, nonneg, soc, psd, exp = np.split(v, np.cumsum(_cone_sizes(cones))[:-1])
    second_order = [_second_order(part) for part in np.split(soc, np.cumsum(cones.soc)[:-1])] if cones.soc else []
    semidefinite = pi(psd, [(PSD, cones.psd)])
    return np.concatenate([0 * zero, np.maximum(nonneg, 0), *second_order, semidefinite, pi(exp, [(EXP, cones.exp)])])


def _second_order(v: Any) -> Any:
    """The nearest point with ``‖v[1:]‖ ≤ v[0]``; diffcp's own takes what is out by 1e-5 for a point of the cone."""
    import numpy as np

    t, radius = v[0], np.linalg.norm(v[1:])
    if radius <= t:
        return v
    return 0 * v if radius <= -t else (1 + t / radius) / 2 * np.append(radius, v[1:])


def _cone_sizes(cones: Any) -> list[int]:
    """The rows of the zero, the non-negative, the second-order, the semidefinite and the exponential cones."""
    if cones.p3d or cones.pnd:
        raise CostError("cost: expected linear, second-order, semidefinite and exponential cones, got power cones")
    return [cones.zero, cones.nonneg, sum(cones.soc), sum(m * (m + 1) // 2 for m in cones.psd), 3 * cones.exp]
