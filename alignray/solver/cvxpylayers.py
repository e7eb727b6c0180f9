"""The reference backend: the same problem through CVXPY and cvxpylayers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from alignray.costs.cost import Cost

_DENSE_ROWS = 400
"""Up to this many rows the KKT system of the derivative is solved densely: LSQR leaves errors of about 1e-5."""


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
        """
        batch, n = p.shape[:-1], p.shape[-1]
        k = None if F is None or not self._cost.uses_factors else F.shape[-1]
        layer = self._layers.get((n, k))
        if layer is None:
            layer = self._layers[n, k] = self._build(n, k)
        size = math.prod(batch)
        parameters = [p.reshape(size, n)]
        if F is not None and k:
            parameters.append(F.expand(*batch, n, k).reshape(size, n, k))
        for strength in self._cost.strengths.values():
            value = torch.as_tensor(strength, dtype=p.dtype, device=p.device)
            parameters.append(value.expand(batch).reshape(size))
        (q,) = layer(*(parameter.cpu() for parameter in parameters))
        return torch.as_tensor(q).to(p).reshape(*batch, n)

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
        arguments = dict(self._solver_args)
        solver = arguments.pop("solver", None)
        if solver is None and "solve_method" not in arguments:
            mode = "dense" if n <= _DENSE_ROWS else "lsqr"
            arguments = {"solve_method": "SCS", "eps": 1e-10, "mode": mode, "max_iters": 100_000, **arguments}
        return CvxpyLayer(problem, parameters, [x], solver=solver, solver_args=arguments)
