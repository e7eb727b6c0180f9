"""The reference backend: the same problem through CVXPY and cvxpylayers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.errors import InvalidArgumentError

_DENSE_ROWS = 400
"""Up to this many rows the KKT system of the derivative is solved densely: LSQR leaves errors of about 1e-5."""
_DERIVATIVE_OPTIONS = ("mode", "n_jobs_backward")
"""What diffcp takes where a derivative is asked for, and refuses where none is."""


class CvxpyBackend:
    """Solves a cost by a cvxpylayers layer, one layer for each size ``(n, k)``.

    Args:
        cost: The cost; all its strengths are CVXPY parameters.
        solver_args: What goes to cvxpylayers, over accurate defaults (SCS at 1e-10); ``solver=`` names the solver.
    """

    def __init__(self, cost: Cost, solver_args: Mapping[str, Any] | None) -> None:
        self._cost = cost
        self._solver_args = dict(solver_args or {})
        self._layers: dict[tuple[int, int | None], Any] = {}

    def solve(self, p: Tensor, F: Tensor | None) -> Tensor:
        """Decisions ``[..., n]``, differentiable in p and in the strengths.

        Args:
            p: Predictions ``[..., n]``, float64.
            F: Factors ``[..., n, k]`` or None, float64.

        Returns:
            The decisions; NaN for the eras that the solver gives up on.
        """
        batch, n = p.shape[:-1], p.shape[-1]
        k = None if F is None or not self._cost.uses_factors else F.shape[-1]
        layer = self._layers.get((n, k))
        if layer is None:
            layer = self._layers[n, k] = self._build(n, k)
        size = math.prod(batch)
        if not size:
            return p.clone()
        parameters = [p.reshape(size, n)]
        if F is not None and k:
            parameters.append(F.expand(*batch, n, k).reshape(size, n, k))
        for strength in self._cost.strengths.values():
            value = torch.as_tensor(strength, dtype=p.dtype, device=p.device)
            parameters.append(value.expand(batch).reshape(size))
        q = self._apply(layer, [parameter.cpu() for parameter in parameters])
        return q.to(p).reshape(*batch, n)

    def _apply(self, layer: Any, parameters: list[Tensor]) -> Tensor:
        """Decisions ``[size, n]``; one era that fails costs the others a second solve, not their result."""
        from diffcp import SolverError  # type: ignore[import-untyped]

        size, n = parameters[0].shape
        differentiated = torch.is_grad_enabled() and any(parameter.requires_grad for parameter in parameters)
        try:
            (q,) = layer(*parameters, solver_args=self._derivative_args(n) if differentiated else {})
        except SolverError:
            if size == 1:
                return torch.full_like(parameters[0], torch.nan)
            eras = (self._apply(layer, [parameter[era : era + 1] for parameter in parameters]) for era in range(size))
            return torch.cat(list(eras))
        return torch.as_tensor(q)

    def _derivative_args(self, n: int) -> dict[str, Any]:
        if self._solver_args.get("solver") not in (None, "DIFFCP"):
            return {}
        given = {name: value for name, value in self._solver_args.items() if name in _DERIVATIVE_OPTIONS}
        return {"mode": "dense" if n <= _DENSE_ROWS else "lsqr", **given}

    def _build(self, n: int, k: int | None) -> Any:
        import cvxpy as cp
        from cvxpylayers.torch import CvxpyLayer

        x, prediction = cp.Variable(n), cp.Parameter(n)
        parameters: list[Any] = [prediction]
        z: Any = None
        constraints: list[Any] = []
        if k:
            factors = cp.Parameter((n, k))
            parameters.append(factors)
            z = cp.Variable(k)
            constraints.append(z == factors.T @ x)
        else:
            z = cp.Constant(0.0)
        cost = 0
        for term in self._cost.terms:
            strength = cp.Parameter(nonneg=True)
            parameters.append(strength)
            cost = cost + term.cvxpy(x, z, strength)
        problem = cp.Problem(cp.Maximize(prediction @ x - cost), constraints)
        arguments = {name: value for name, value in self._solver_args.items() if name not in _DERIVATIVE_OPTIONS}
        solver = arguments.pop("solver", None)
        if solver is None and "solve_method" not in arguments:
            arguments = {"solve_method": "SCS", "eps": 1e-10, "max_iters": 100_000, **arguments}
        try:
            return CvxpyLayer(problem, parameters, [x], solver=solver, solver_args=arguments)
        except (cp.SolverError, RuntimeError) as error:
            raise InvalidArgumentError(
                f"solver_args: expected a solver that cvxpylayers has, got {solver!r} ({error})"
            ) from error
