"""Why an era has no score: said of every era and member that lacks one, and counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum

import torch
from torch import Tensor


class Unscored(IntEnum):
    """Why a metric of an era is NaN. The first that holds, of those that concern the metric, is the reason."""

    NO_TARGETS = 1
    EQUAL_TARGETS = 2
    UNCONVERGED = 3
    REFERENCE_UNCONVERGED = 4
    CONSTANT_DECISION = 5
    CONSTANT_PREDICTION = 6
    TOO_FEW_ROWS = 7
    UNDEFINED = 8
    DIVERGED = 9

    @property
    def key(self) -> str:
        """The name of its count, ``unscored_<reason>``, among metrics and in tables."""
        return f"unscored_{self.name.lower()}"

    @property
    def meaning(self) -> str:
        """The reason in words."""
        return _IN_WORDS[self][0]

    @property
    def advice(self) -> str:
        """What to do about it."""
        return _IN_WORDS[self][1]


_IN_WORDS = {
    Unscored.NO_TARGETS: ("no row has a target", "check the panel's target"),
    Unscored.EQUAL_TARGETS: ("all known targets are equal", "check the panel's target"),
    Unscored.UNCONVERGED: ("the decision's solve did not converge", "raise solver.max_iter"),
    Unscored.REFERENCE_UNCONVERGED: ("a solve under the reference cost did not converge", "raise solver.max_iter"),
    Unscored.CONSTANT_DECISION: ("the decision is the same on every row, mostly 0", "lower the cost's strengths"),
    Unscored.CONSTANT_PREDICTION: ("the prediction is the same on every row", "lower optimiser.weight_decay"),
    Unscored.TOO_FEW_ROWS: ("the era has fewer than 2 top_bottom rows", "lower scoring.top_bottom"),
    Unscored.DIVERGED: (
        "the member has diverged: its predictions are not finite",
        "lower optimiser.learning_rate or set optimiser.gradient_clip",
    ),
    Unscored.UNDEFINED: ("what the metric compares does not vary in the rows compared", "raise scoring.top_bottom"),
}


def first_reason(values: Tensor, holds: Sequence[tuple[Unscored, Tensor]]) -> Tensor:
    """Returns why each value is NaN, an `Unscored` each, `[...]`; 0 where it is not.

    Args:
        values: A metric `[...]`.
        holds: Where each reason holds, bool, in order; they broadcast to `[...]`.
    """
    reasons = torch.full(values.shape, Unscored.UNDEFINED, dtype=torch.uint8, device=values.device)
    for reason, where in reversed(holds):
        reasons = torch.where(where, int(reason), reasons)
    return torch.where(values.isnan(), reasons, 0).to(torch.uint8)


def by_name(counts: Mapping[Unscored, int]) -> dict[str, int]:
    """``unscored``, all of them, and ``unscored_<reason>`` for each reason that there is."""
    return {
        "unscored": sum(counts.values()),
        **{reason.key: count for reason, count in sorted(counts.items())},
    }
