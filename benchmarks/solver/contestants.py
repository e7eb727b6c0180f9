"""Who is measured: alignray's layer, and the layers of cvxpylayers."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from benchmarks.solver.problem import OFFSET, SCALE, Problem, factors

Forward: TypeAlias = Callable[[Tensor], tuple[Tensor, Tensor]]
"""From predictions to a number whose gradient in them is ``J (p − y)``, and the decisions."""
Precision: TypeAlias = Literal["float64", "float32", "int8"]


@dataclass(frozen=True, slots=True)
class Ours:
    """alignray's native layer with the aligned objective.

    Attributes:
        name: How it is called on the command line and in the tables.
        precision: That of p and F, as tensors; int8: p in float64, F as its codes.
    """

    name: str
    precision: Precision

    @property
    def setting(self) -> str:
        """What the tables say about how it is set."""
        return f"p float64, F {self.precision}" if self.precision != "float32" else "p and F float32"

    def prediction(self, p: np.ndarray) -> Tensor:
        """Predictions as a leaf of the graph."""
        dtype = torch.float32 if self.precision == "float32" else torch.float64
        return torch.tensor(p, dtype=dtype, requires_grad=True)

    def factors(self, problem: Problem) -> Any:
        """F as the layer is given it."""
        from alignray.costs import Factors

        if self.precision == "int8":
            return Factors(torch.from_numpy(problem.codes), SCALE, OFFSET)
        return torch.from_numpy(factors(problem.codes)).to(getattr(torch, self.precision))

    def prepare(self, problem: Problem) -> Callable[[], Forward]:
        """Convert the data, which is not timed, and return the set-up, which is."""
        F = self.factors(problem)
        y = self.prediction(problem.y).detach()

        def set_up() -> Forward:
            import alignray as ar

            objective = ar.objective("aligned", ar.SolverLayer(cost(problem), on_failure="nan"))

            def forward(p: Tensor) -> tuple[Tensor, Tensor]:
                loss, solution = objective.evaluate(p, y, F)
                assert solution is not None
                return loss.sum(), solution.q

            return forward

        return set_up


@dataclass(frozen=True, slots=True)
class Rival:
    """A layer of cvxpylayers in the factored form ``z = Fᵀx``, F a constant and p the only parameter.

    Attributes:
        name: How it is called on the command line and in the tables.
        setting: What the tables say about how it is set.
        solver: cvxpylayers' name of the solver.
        solver_args: What goes to it.
    """

    name: str
    setting: str
    solver: str
    solver_args: Mapping[str, Any]

    def prediction(self, p: np.ndarray) -> Tensor:
        """Predictions as a leaf of the graph."""
        return torch.tensor(p, dtype=torch.float64, requires_grad=True)

    def prepare(self, problem: Problem) -> Callable[[], Forward]:
        """Convert the data, which is not timed, and return the set-up, which is."""
        F = problem.factors
        y = torch.from_numpy(problem.y)

        def set_up() -> Forward:
            import cvxpy as cp
            from cvxpylayers.torch import CvxpyLayer

            n, k = F.shape
            x, z, prediction = cp.Variable(n), cp.Variable(k), cp.Parameter(n)
            paid = cp.sum_squares(x) / 2 + problem.s * cp.norm1(x) + cp.sum_squares(z) / 2
            stated = cp.Problem(cp.Maximize(prediction @ x - paid), [z == F.T @ x])
            layer = CvxpyLayer(stated, [prediction], [x], solver=self.solver, solver_args=dict(self.solver_args))

            def forward(p: Tensor) -> tuple[Tensor, Tensor]:
                (q,) = layer(p)
                return ((p.detach() - y) * q).sum(), q

            return forward

        return set_up


def cost(problem: Problem) -> Any:
    """The problem's cost in alignray's terms."""
    import alignray as ar

    return ar.Quadratic(1.0) + ar.SoftL1(problem.s, width=0.0) + ar.FactorPenalty(1.0)


def _tolerances(tolerance: float) -> dict[str, float]:
    return {"tol_gap_abs": tolerance, "tol_gap_rel": tolerance, "tol_feas": tolerance}


OURS = (Ours("alignray", "float64"), Ours("alignray-float32", "float32"), Ours("alignray-int8", "int8"))
RIVALS = (
    # The most accurate of what was tried: see README.md.
    Rival(
        "scs",
        "eps 1e-10, lsmr",
        "DIFFCP",
        {"solve_method": "SCS", "eps": 1e-10, "max_iters": 100_000, "mode": "lsmr"},
    ),
    Rival(
        "clarabel",
        "tolerances 1e-12, lsmr",
        "DIFFCP",
        {"solve_method": "Clarabel", "mode": "lsmr", **_tolerances(1e-12)},
    ),
    Rival("moreau", "tolerances 1e-12, ipm", "MOREAU", {"solver": "ipm", "ipm_settings": _tolerances(1e-12)}),
    # What a user gets who sets nothing.
    Rival("scs-default", "defaults", "DIFFCP", {"solve_method": "SCS"}),
    Rival("clarabel-default", "defaults", "DIFFCP", {"solve_method": "Clarabel"}),
    Rival("moreau-default", "defaults", "MOREAU", {}),
)
CONTESTANTS: Mapping[str, Ours | Rival] = {contestant.name: contestant for contestant in (*OURS, *RIVALS)}


def missing(contestant: Ours | Rival) -> str | None:
    """The package that a contestant needs and that is not installed."""
    if isinstance(contestant, Ours):
        return None
    package = "moreau" if contestant.solver == "MOREAU" else "cvxpylayers"
    return None if importlib.util.find_spec(package) else package
