"""Whether a gradient is the gradient: taken in several ways, and compared as vectors, never through the loss.

Two functions can be ε-close and their gradients anything: ``g(x) + ε sin(kx/ε)``. The ways:

- ``closed_form``: what training uses, in the prediction's own precision.
- ``autograd``: of the arm's loss as the table of the arms writes it, through the cost and the layer. It knows neither
  the envelope theorem nor the closed form, but shares the layer's J. The four arms have it.
- ``finite_differences``: central ones of the loss, from solves alone. They know nothing of any derivative, but are
  right only to about the step where a row comes off a kink, and to its square times the third derivative elsewhere.
- each surrogate: any other function of the prediction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.diagnostics.gradients import WRITTEN_OUT, Gap, Given, largest, tight, whole
from alignray.errors import InvalidArgumentError
from alignray.objectives import Objective

if TYPE_CHECKING:
    import pandas as pd

_OWN = {"closed_form", "autograd", "finite_differences"}
"""The names of the ways that are not surrogates."""

_EPS = 64 * torch.finfo(torch.float64).eps


@dataclass(frozen=True, slots=True, eq=False)
class Fidelity:
    """Gradients in the prediction, taken in several ways.

    Attributes:
        gradients: By name, ``[..., n]``; ``finite_differences`` along the directions, ``[..., m]``.
        directions: The directions ``[m, n]``: the rows' own axes where they are few.
        pairs: The gap of each pair, by the names of the gradient and of its reference. Those with
            ``finite_differences`` compare the slopes along the directions.
    """

    gradients: dict[str, Tensor]
    directions: Tensor
    pairs: dict[tuple[str, str], Gap]

    @property
    def angle_max(self) -> float:
        """The largest angle of all pairs and eras, in degrees; NaN where no solve converged."""
        return largest(torch.stack([gap.angle for gap in self.pairs.values()]))

    @property
    def error_max(self) -> float:
        """The largest relative error of all pairs and eras; infinite where a reference is 0 and a gradient is not."""
        return largest(torch.stack([gap.error for gap in self.pairs.values()]))

    def to_frame(self) -> pd.DataFrame:
        """A row for each pair: the median and the largest angle, in degrees, and relative error over the eras."""
        import pandas as pd

        return pd.DataFrame(
            {
                "gradient": gradient,
                "reference": reference,
                "angle_median": float(gap.angle.nanmedian()),
                "angle_max": largest(gap.angle),
                "error_median": float(gap.error.nanmedian()),
                "error_max": largest(gap.error),
            }
            for (gradient, reference), gap in self.pairs.items()
        )

    def __str__(self) -> str:
        return str(self.to_frame().to_string(index=False, float_format="{:.3g}".format))


def gradient_fidelity(
    objective: Objective,
    p: Tensor,
    y: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
    *,
    surrogates: Mapping[str, Callable[[Tensor], Tensor]] | None = None,
    directions: int = 32,
    step: float = 1e-5,
    seed: int = 0,
) -> Fidelity:
    """Take the gradient of an objective in the prediction in every way that the module names, and compare each pair.

    Args:
        objective: The objective, with its layer.
        p: Predictions ``[..., n]``.
        y: Targets ``[..., n]``; their batch axes may be fewer than those of p.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.
        surrogates: Other functions by name, each from predictions ``[..., n]``, float64, to a loss an era ``[...]``,
            which is differentiated, or to its gradient ``[..., n]``.
        directions: How many random directions, ±1 a row, finite differences go along, two solves of the batch each; the
            rows' own where they are no more.
        step: How far a row is moved, in the unit of p; 1e-3 suits the reference backend's accuracy.
        seed: Seeds the directions.

    Raises:
        InvalidArgumentError: A shape, type or device does not fit, or a surrogate returns neither, or has the name of
            another way.
    """
    if directions < 1 or not step > 0:
        raise InvalidArgumentError(f"directions, step: expected at least 1 and above 0, got {directions} and {step}")
    taken = sorted(_OWN & set(surrogates or {}))
    if taken:
        raise InvalidArgumentError(f"surrogates: expected names other than {', '.join(sorted(_OWN))}, got {taken[0]!r}")
    layer = tight(objective.layer)
    p = whole(layer, p, F, mask, previous)
    given = Given.of(p, y, F, mask, previous)
    exact = given.known(p.double())
    gradients = {
        name: given.known(_surrogate_gradient(name, function, exact)) for name, function in (surrogates or {}).items()
    }
    gradients["closed_form"] = given.gradient(objective, p).double()
    if objective.name in WRITTEN_OUT:
        gradients["autograd"] = given.gradient_through(layer, objective.name, exact)
    gradients = {name: given.settled(gradient, exact) for name, gradient in gradients.items()}
    pairs = {(a, b): Gap.of(gradients[a], gradients[b]) for a, b in combinations(gradients, 2)}
    D = _directions(exact, directions, seed)
    slopes, floor = _slopes(objective.on(layer), exact, given, D, step)
    for name, gradient in gradients.items():
        pairs[name, "finite_differences"] = Gap.of(_above(floor, gradient @ D.mT), _above(floor, slopes))
    return Fidelity({**gradients, "finite_differences": slopes}, D, pairs)


def _surrogate_gradient(name: str, function: Callable[[Tensor], Tensor], p: Tensor) -> Tensor:
    p = p.clone().requires_grad_()
    with torch.enable_grad():
        found = function(p)
    if isinstance(found, Tensor) and found.shape == p.shape:
        return found.detach()
    if not isinstance(found, Tensor) or found.shape != p.shape[:-1] or not found.requires_grad:
        got = type(found).__name__
        if isinstance(found, Tensor):
            got = f"{list(found.shape)}{'' if found.requires_grad else ' without a graph'}"
        raise InvalidArgumentError(
            f"surrogates[{name!r}]: expected a loss {list(p.shape[:-1])} that is differentiable in p, or a gradient "
            f"{list(p.shape)}; got {got}"
        )
    (gradient,) = torch.autograd.grad(found.sum(), p)
    return gradient


def _directions(p: Tensor, count: int, seed: int) -> Tensor:
    """The directions ``[m, n]``."""
    n = p.shape[-1]
    if n <= count:
        return torch.eye(n).to(p)
    generator = torch.Generator().manual_seed(seed)  # on the CPU: the same on every device
    return (2.0 * torch.randint(0, 2, (count, n), generator=generator) - 1).to(p)


def _slopes(objective: Objective, p: Tensor, given: Given, D: Tensor, step: float) -> tuple[Tensor, Tensor]:
    """The slopes of the loss along the directions ``[..., m]``, and what of them may be error ``[..., m]``."""
    moves = step * D.reshape(len(D), *[1] * (p.dim() - 1), -1)
    ends = torch.stack([p + moves, p - moves])  # new axes in front, which the factors lack and share
    with torch.no_grad():
        loss, solution = objective.evaluate(ends, given.y, given.F, given.mask, given.previous)
    error = _EPS * loss.abs()
    if solution is not None:  # a decision that is off by its residual, priced as the objectives price it
        size = p.abs().amax(-1).clamp(min=1)
        error = error + solution.residual * size * (p.abs() + given.y.abs()).sum(-1)
    slopes, error = (loss[0] - loss[1]) / (2 * step), error.amax(0) / step
    return slopes.movedim(0, -1), error.movedim(0, -1)


def _above(floor: Tensor, slopes: Tensor) -> Tensor:
    """The slopes, 0 where a finite difference cannot tell them from 0."""
    return torch.where(slopes.abs() <= floor, 0.0, slopes)
