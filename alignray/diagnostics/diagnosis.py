"""All the diagnostics of a model in training, as a trial logs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.configuration import require_above, require_at_least
from alignray.data import Panel
from alignray.diagnostics.dead_rows import DeadZone, dead_zone
from alignray.diagnostics.fidelity import Fidelity, gradient_fidelity
from alignray.diagnostics.staleness import BOUND, Reuse, reuse
from alignray.errors import TrainingError
from alignray.objectives import Objective
from alignray.training import Members, TrainingConfig

_DIRECTIONS = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class DiagnosticsConfig:
    """What a trial measures of its gradients, beside training and without changing it.

    Attributes:
        every: Epochs from one measurement to the next.
        eras: Training eras, drawn by the trial's seed, on which gradients are compared and dead rows counted.
        reuse: The largest number of steps for which the reuse of a solve is measured (1, 2, 4, … up to it), each on a
            copy of the members, with four batches; 0 for none.
        bound: The relative error of the gradient that reuse is allowed.
    """

    every: int = 1
    eras: int = 4
    reuse: int = 0
    bound: float = BOUND

    def __post_init__(self) -> None:
        require_at_least("diagnostics.every", self.every, 1)
        require_at_least("diagnostics.eras", self.eras, 1)
        require_at_least("diagnostics.reuse", self.reuse, 0)
        require_above("diagnostics.bound", self.bound, 0)


@dataclass(frozen=True, slots=True, eq=False)
class Diagnosis:
    """What was measured.

    Attributes:
        dead_zone: The rows in the dead zone, by member and era.
        fidelity: The gradient against itself, taken otherwise.
        reuse: How long a solve serves; None where it was not asked for.
    """

    dead_zone: DeadZone
    fidelity: Fidelity
    reuse: Reuse | None

    @property
    def metrics(self) -> dict[str, float]:
        """One number of each: ``diag/dead_zone`` (the mean share), ``diag/gradient_angle_max`` (degrees), …."""
        metrics = {
            "diag/dead_zone": float(self.dead_zone.share.nanmean()),
            "diag/gradient_angle_max": self.fidelity.angle_max,
            "diag/gradient_error_max": self.fidelity.error_max,
        }
        if self.reuse is not None:
            metrics |= {f"diag/reuse_{held}_k": float(k) for held, k in self.reuse.recommended.items()}
        return metrics


def diagnose(
    objective: Objective,
    members: Members,
    panel: Panel,
    eras: Sequence[int],
    *,
    config: DiagnosticsConfig,
    training: TrainingConfig,
    state: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Diagnosis:
    """Measure the dead zone, the fidelity of the gradient, and if asked for the reuse of a solve.

    Args:
        objective: What is minimised, with its layer.
        members: The model; it is not changed.
        panel: The data.
        eras: The training eras, as indices; ``config.eras`` of them are looked at.
        config: What is measured.
        training: How the members are trained, for `reuse`.
        state: The trainer's state, likewise.
        seed: Seeds the choice of the eras, and every direction.

    Raises:
        TrainingError: A member's predictions are not finite.
    """
    order = torch.randperm(len(eras), generator=torch.Generator().manual_seed(seed))[: config.eras]
    batch = panel.batch(
        [eras[index] for index in order.tolist()], device=next(iter(members.parameters.values())).device
    )
    with torch.no_grad():
        p = members(batch.features, batch.present)
    diverged = (~p.isfinite().flatten(1).all(1)).nonzero().flatten().tolist()
    if diverged:
        raise TrainingError(
            f"diagnostics: expected finite predictions, those of member {', '.join(map(str, diverged))} are not; "
            "leave out members that diverged"
        )
    given = (batch.target, batch.factors, batch.mask)
    steps = [2**power for power in range(config.reuse.bit_length())]
    return Diagnosis(
        dead_zone=dead_zone(objective.layer, p, *given[1:], seed=seed),
        fidelity=gradient_fidelity(objective, p, *given, directions=_DIRECTIONS, seed=seed),
        reuse=reuse(
            objective, members, panel, eras, training=training, state=state, steps=steps, bound=config.bound, seed=seed
        )
        if steps
        else None,
    )
