"""The four arms, each a loss per era with its closed-form gradient in the prediction.

========================  =============================  ==================
arm                       loss, with ``q = q(p)``        gradient in p
========================  =============================  ==================
``aligned``               ``C(q) − y·q``                 ``J (p − y)``
``misaligned``            ``−y·q``                       ``−J y``
``fenchel_young``         ``C*(p) − p·q(y) + C(q(y))``   ``q − q(y)``
``mse``                   ``½ ‖p − y‖²``                 ``p − y``
========================  =============================  ==================

``J = ∂q/∂p``. Losses are to be minimised. A new arm is one class and one row in ``OBJECTIVES``.

Sources: Blondel, Martins and Niculae, "Learning with Fenchel-Young losses", JMLR 21 (2020), for ``fenchel_young``;
Elmachtoub and Grigas, "Smart 'predict, then optimize'", Management Science 68 (2022), doi:10.1287/mnsc.2020.3922, for
decision regret.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from alignray.costs.arguments import known, require_finite
from alignray.costs.factors import Factors
from alignray.errors import InvalidArgumentError
from alignray.objectives.base import Objective, targets
from alignray.objectives.decision_loss import DecisionLoss, LossFunction
from alignray.objectives.sobolev import Sobolev
from alignray.solver import Solution, SolverLayer


class Aligned(Objective):
    """The decision regret of p up to a constant in y: ``C(q(p)) − y·q(p)``."""

    name: ClassVar[str] = "aligned"

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,
    ) -> tuple[Tensor, Solution | None]:
        """See `Objective.evaluate`."""
        y = targets(p, y, F, mask, previous)
        solution = self.layer(p, F, mask, warm, previous)
        if _rests_are_learned(self.layer, previous):
            q = solution.q
            return self.layer.cost.finite_part(q, F, mask, previous) - (y * q).sum(-1), solution
        q = solution.q.detach()
        value = self.layer.cost.finite_part(q, F, mask, previous) - (y * q).sum(-1)
        # The last term is 0 and carries the derivative J(p − y): at the optimum ∇C(q) is p, whatever the kinks.
        error = (known(p, mask) - y).detach()
        return value + (error * (solution.q - q)).sum(-1), solution


class Misaligned(DecisionLoss):
    """The solver's costs left out: ``−y·q(p)``. Unbounded below where q is unbounded in p."""

    name: ClassVar[str] = "misaligned"

    def __init__(self, layer: SolverLayer) -> None:
        super().__init__(layer, _negative_return)


class FenchelYoung(Objective):
    """The aligned divergence with its arguments swapped: convex in p, and 0 where q(p) = q(y)."""

    name: ClassVar[str] = "fenchel_young"

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,
    ) -> tuple[Tensor, Solution | None]:
        """See `Objective.evaluate`."""
        y = targets(p, y, F, mask, previous)
        with torch.set_grad_enabled(torch.is_grad_enabled() and _rests_are_learned(self.layer, previous)):
            solution = self.layer(p, F, mask, warm, previous)
        # By the envelope theorem ∇C*(p) is q(p), so q is held; q(y) moves with the strengths alone.
        best = self.layer(y, F, mask, previous=previous).q
        p, cost = known(p, mask), self.layer.cost.finite_part
        conjugate = (p * solution.q).sum(-1) - cost(solution.q, F, mask, previous)
        return conjugate - (p * best).sum(-1) + cost(best, F, mask, previous), solution


class Mse(Objective):
    """Predict, then optimise: ``½ ‖p − y‖²``."""

    name: ClassVar[str] = "mse"

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,
        mask: Tensor | None = None,
        previous: Tensor | None = None,
        warm: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, Solution | None]:
        """See `Objective.evaluate`."""
        y = targets(p, y, F, mask, previous)
        p = known(p, mask)
        require_finite("p", p)
        return 0.5 * (p - y).square().sum(-1), None


OBJECTIVES: dict[str, type[Objective]] = {arm.name: arm for arm in (Aligned, Misaligned, FenchelYoung, Mse)}
"""Every arm by name."""


def objective(name: str | LossFunction, layer: SolverLayer, sobolev: float = 0.0, *, seed: int = 0) -> Objective:
    """The arm of that name on a solver layer, or a loss of your own.

    Args:
        name: A row of ``OBJECTIVES``; or a torch function of the decision and the target, see `DecisionLoss`.
        layer: The solver layer.
        sobolev: The weight of the penalty on the error of the decision's derivatives, see `Sobolev`; 0 for none.
        seed: Seeds the penalty's random directions.

    Raises:
        InvalidArgumentError: No arm has that name, or the weight is negative or not finite.
    """
    if callable(name):
        arm: Objective = DecisionLoss(layer, name)
    elif name in OBJECTIVES:
        arm = OBJECTIVES[name](layer)
    else:
        raise InvalidArgumentError(f"objective: expected one of {', '.join(OBJECTIVES)}, got {name!r}")
    return arm if sobolev == 0 else Sobolev(arm, sobolev, seed=seed)


def regret(
    layer: SolverLayer,
    p: Tensor,
    y: Tensor,
    F: Tensor | Factors | None = None,
    mask: Tensor | None = None,
    previous: Tensor | None = None,
) -> Tensor:
    """What the decision of p loses against the decision of y, in the solver's own terms; at least 0.

    ``aligned(p) − aligned(y) = D_C(q(p), q(y))``, the Bregman divergence of C.

    Args:
        layer: The solver layer.
        p: Predictions ``[..., n]``.
        y: Targets ``[..., n]``; their batch axes may be fewer than those of p.
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count ``[..., n]``, or None for all.
        previous: The previous decision ``[..., n]``, for a cost with `Turnover`; None for nothing held.

    Returns:
        The regret of each era, ``[...]``.

    Raises:
        InvalidArgumentError: A shape, type or device does not fit, or a value is not finite.
    """
    y, aligned = targets(p, y, F, mask, previous), Aligned(layer)
    found = aligned(p, y, F, mask, previous) - aligned(y.to(p.dtype), y, F, mask, previous)
    # What lies below 0 is rounding; the derivative is not touched.
    return found + (found.clamp(min=0) - found).detach()


def _negative_return(q: Tensor, y: Tensor, mask: Tensor) -> Tensor:  # noqa: ARG001
    return -(y * q).sum(-1)


def _rests_are_learned(layer: SolverLayer, previous: Tensor | None) -> bool:
    """Whether rows at rest move with what is learned, so that what holds them there is part of the derivative."""
    bound = layer.cost.bound
    moving_bound = isinstance(bound, Tensor) and bound.requires_grad
    return moving_bound or (layer.cost.uses_previous and previous is not None and previous.requires_grad)
