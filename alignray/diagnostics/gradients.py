"""Gradients in the prediction: the ways to take one, and how far two of them are apart."""

# ruff: noqa: ARG005  # the rows of a table take the same arguments

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from alignray.costs.arguments import batch_shape, batch_with_strengths
from alignray.costs.factors import Factors
from alignray.errors import InvalidArgumentError
from alignray.objectives import Objective
from alignray.solver import Solution, SolverLayer

_TIGHT = 1e-11
"""The KKT residual that a finite difference needs: it divides the loss's error by its step."""

_ROUNDING = 1e-12
"""A gradient below this share of the predictions and targets is the 0 of a batch in which no row is free to move."""

Map: TypeAlias = Callable[[Tensor], Tensor]

CLOSED_FORMS: dict[str, Callable[[Map, Tensor, Tensor, Tensor, Callable[[], Tensor]], Tensor]] = {
    "aligned": lambda J, p, y, q, best: J(p - y),
    "misaligned": lambda J, p, y, q, best: -J(y),
    "fenchel_young": lambda J, p, y, q, best: q - best(),
}
"""The gradient in p ``[..., n]`` of each arm that solves, by J = ∂q/∂p as a map, p, y, q = q(p) and q(y)."""

WRITTEN_OUT: dict[str, Callable[[Map, Tensor, Tensor, Tensor, Callable[[], Tensor]], Tensor]] = {
    "aligned": lambda C, p, y, q, best: C(q) - _dot(y, q),
    "misaligned": lambda C, p, y, q, best: -_dot(y, q),
    "fenchel_young": lambda C, p, y, q, best: _dot(p, q) - C(q) - _dot(p, best()) + C(best()),
    "mse": lambda C, p, y, q, best: 0.5 * (p - y).square().sum(-1),
}
"""The loss ``[...]`` of each arm, by the cost as a map and the same."""


@dataclass(frozen=True, slots=True, eq=False)
class Given:
    """What a loss is given beside the prediction, in float64.

    Attributes:
        y: Targets ``[..., n]``, 0 on the rows that do not count.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, or None.
    """

    y: Tensor
    F: Tensor | Factors | None
    mask: Tensor | None
    previous: Tensor | None

    @classmethod
    def of(
        cls, p: Tensor, y: Tensor, F: Tensor | Factors | None, mask: Tensor | None, previous: Tensor | None
    ) -> Given:
        """Check that they fit the predictions ``[..., n]``.

        Raises:
            InvalidArgumentError: A shape, type or device does not fit.
        """
        held = {} if previous is None else {"previous": previous}
        batch_shape(F, mask, p=p, y=y, **held)
        if not p.is_floating_point():
            raise InvalidArgumentError(f"p: expected floating-point predictions, got {p.dtype}")
        if torch.broadcast_shapes(p.shape, y.shape) != p.shape:
            raise InvalidArgumentError(
                f"y: expected batch axes that p has too, {list(p.shape[:-1])}, got {list(y.shape[:-1])}; expand p"
            )
        y = y.detach().double()
        y = y if mask is None else torch.where(mask, y, 0.0)
        return cls(y, F, mask, None if previous is None else previous.detach().double())

    def known(self, values: Tensor) -> Tensor:
        """The values on the rows that count, 0 elsewhere."""
        return values if self.mask is None else torch.where(self.mask, values, 0.0)

    def settled(self, gradient: Tensor, p: Tensor) -> Tensor:
        """A gradient at predictions p, each ``[..., n]``, 0 in an era where it is but rounding."""
        sizes = [torch.linalg.vector_norm(values, dim=-1, keepdim=True) for values in (gradient, p, self.y)]
        return torch.where(sizes[0] <= _ROUNDING * (sizes[1] + sizes[2]), 0.0, gradient)

    def decide(self, layer: SolverLayer, p: Tensor) -> Solution:
        """The decisions of some predictions ``[..., n]``."""
        solution: Solution = layer(p, self.F, self.mask, previous=self.previous)
        return solution

    def gradient(self, objective: Objective, p: Tensor) -> Tensor:
        """The objective's own gradient in p ``[..., n]``, as training takes it; NaN in an era whose solve failed."""
        p = p.detach().requires_grad_()
        loss = objective(p, self.y.to(p.dtype), self.F, self.mask, self.previous)
        (gradient,) = torch.autograd.grad(loss.sum(), p)
        return torch.where(loss.isfinite().unsqueeze(-1), gradient, torch.nan)

    def gradient_through(self, layer: SolverLayer, arm: str, p: Tensor) -> Tensor:
        """The gradient of the arm's written-out loss by autograd, q attached: the chain rule through C and the layer.

        Args:
            layer: The layer.
            arm: A row of ``WRITTEN_OUT``.
            p: Predictions ``[..., n]``, float64.
        """
        p = p.detach().requires_grad_()
        solution = self.decide(layer, p)

        def cost(q: Tensor) -> Tensor:
            return layer.cost.finite_part(q, self.F, self.mask, self.previous)

        loss = WRITTEN_OUT[arm](cost, p, self.y, solution.q, lambda: self.decide(layer, self.y).q)
        (gradient,) = torch.autograd.grad(loss.sum(), p)
        return torch.where(solution.converged.unsqueeze(-1), gradient, torch.nan)


def whole(
    layer: SolverLayer, p: Tensor, F: Tensor | Factors | None, mask: Tensor | None, previous: Tensor | None
) -> Tensor:
    """The predictions with all the axes of the batch ``[..., n]``, those of the strengths too.

    Raises:
        InvalidArgumentError: A shape or device does not fit.
    """
    held = {} if previous is None else {"previous": previous}
    batch = batch_with_strengths(batch_shape(F, mask, p=p, **held), layer.cost.strengths, p.device)
    return p.detach().expand(*batch, p.shape[-1])


def tight(layer: SolverLayer) -> SolverLayer:
    """The same layer, solved more closely, its failures NaN; the reference backend is as close as it can be."""
    if layer.backend != "native":
        return layer
    return SolverLayer(layer.cost, tol=min(layer.tol, _TIGHT), max_iter=layer.max_iter, on_failure="nan")


def angle(a: Tensor, b: Tensor) -> Tensor:
    """The angle between two vectors ``[..., n]``, in degrees ``[...]``: 0 between two zeros, 90 to one of them.

    By W. Kahan's formula, which is exact for the smallest angles, where the arc cosine is not.
    """
    a, b = _unit(a), _unit(b)
    between = 2 * torch.atan2(torch.linalg.vector_norm(a - b, dim=-1), torch.linalg.vector_norm(a + b, dim=-1))
    return between.rad2deg()


def relative_error(a: Tensor, reference: Tensor) -> Tensor:
    """``‖a − reference‖ / ‖reference‖`` of vectors ``[..., n]``, as ``[...]``: 0 where they are equal, be they 0."""
    gap = torch.linalg.vector_norm(a - reference, dim=-1)
    return torch.where(gap == 0, 0.0, gap / torch.linalg.vector_norm(reference, dim=-1))


@dataclass(frozen=True, slots=True, eq=False)
class Gap:
    """How far a gradient is from another, the reference; era by era, NaN where a solve failed.

    Attributes:
        angle: Degrees ``[...]``.
        error: ``‖gradient − reference‖ / ‖reference‖`` ``[...]``.
    """

    angle: Tensor
    error: Tensor

    @classmethod
    def of(cls, gradient: Tensor, reference: Tensor) -> Gap:
        """The gap of two vectors ``[..., n]``."""
        return cls(angle(gradient, reference), relative_error(gradient, reference))


def largest(values: Tensor) -> float:
    """The largest of the values that are numbers; NaN where none is."""
    numbers = values[~values.isnan()]
    return float(numbers.max()) if numbers.numel() else float("nan")


def _unit(a: Tensor) -> Tensor:
    size = a.abs().amax(-1, keepdim=True)
    a = a / torch.where(size == 0, 1.0, size)  # first to about 1, so that squares neither vanish nor overflow
    length = torch.linalg.vector_norm(a, dim=-1, keepdim=True)
    return a / torch.where(length == 0, 1.0, length)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1)
