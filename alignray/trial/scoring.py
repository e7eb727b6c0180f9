"""Scoring members on eras: every metric, era by era and member by member."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray import metrics
from alignray.configuration import require_at_least, require_one_of
from alignray.costs import Cost
from alignray.data import Loader, Panel
from alignray.errors import ConfigurationError
from alignray.metrics import masked
from alignray.objectives import regret
from alignray.solver import SolverLayer
from alignray.statistics import mean, sharpe
from alignray.training import ALONE, Members, Workers
from alignray.trial.unscored import Unscored, first_reason

_ERAS_AT_ONCE = 256
_NUMBERS_AT_ONCE = 1 << 26
"""The features that are scored at once: half a gigabyte in float64, whatever the size of an era."""


@dataclass(frozen=True, slots=True, eq=False)
class Scored:
    """One batch of eras, predicted and decided: ``R`` members, ``B`` eras, ``n`` rows, ``k`` factors.

    Attributes:
        p: Predictions ``[R, B, n]``.
        q: Decisions of the trial's own solver ``[R, B, n]``.
        y: Standardised targets ``[B, n]``.
        F: Factors ``[B, n, k]``.
        mask: Rows that count ``[B, n]``; none in an era that ranks nothing.
        known: Rows whose target is known ``[B, n]``.
        converged: Whether the decision's solve did ``[R, B]``.
        reference: The solver that utility and regret are measured with.
        top_bottom: Rows at each end that rank correlations of the decision keep.
    """

    p: Tensor
    q: Tensor
    y: Tensor
    F: Tensor
    mask: Tensor
    known: Tensor
    converged: Tensor
    reference: SolverLayer
    top_bottom: int | None


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of a batch.

    Attributes:
        per_era: The metric of every member and era, ``[R, B]``; NaN where an era has none.
        direction: 1 where more is better, −1 where less is, 0 where neither is.
        meaning: One line for tables.
        summary: From the series of the eras ``[..., eras]`` to one number; their mean, or their Sharpe ratio.
        reasons: Why an era may have none although its targets differ, in order.
    """

    per_era: Callable[[Scored], Tensor]
    direction: int
    meaning: str
    summary: Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
    reasons: tuple[Unscored, ...]

    def measure(self, scored: Scored) -> tuple[Tensor, Tensor]:
        """The metric of every member and era ``[R, B]``, and why it is NaN where it is: an `Unscored`, or 0."""
        holds = {reason: _HOLDS[reason](scored) for reason in (*_ALWAYS, *self.reasons)}
        # Without targets that differ an era ranks nothing, and its utility of 0 would be no score.
        values = self.per_era(scored).masked_fill(holds[Unscored.NO_TARGETS] | holds[Unscored.EQUAL_TARGETS], torch.nan)
        return values, first_reason(values, list(holds.items()))


_ALWAYS = (Unscored.NO_TARGETS, Unscored.EQUAL_TARGETS)

_HOLDS: dict[Unscored, Callable[[Scored], Tensor]] = {
    Unscored.NO_TARGETS: lambda scored: ~scored.known.any(-1),
    Unscored.EQUAL_TARGETS: lambda scored: ~scored.mask.any(-1),
    Unscored.UNCONVERGED: lambda scored: ~scored.converged,
    # Nothing else leaves the utility of an era with targets undefined.
    Unscored.REFERENCE_UNCONVERGED: lambda scored: torch.ones_like(scored.converged),
    Unscored.CONSTANT_DECISION: lambda scored: masked.constant(scored.q, scored.mask),
    Unscored.CONSTANT_PREDICTION: lambda scored: masked.constant(scored.p, scored.mask),
    Unscored.TOO_FEW_ROWS: lambda scored: scored.mask.sum(-1) < 2 * (scored.top_bottom or 0),
}
"""Where each reason holds: bool, broadcastable to ``[R, B]``."""


def _decision_corr(scored: Scored) -> Tensor:
    return metrics.numerai_corr(scored.q, scored.y, mask=scored.mask, top_bottom=scored.top_bottom)


def _corr(scored: Scored) -> Tensor:
    return metrics.numerai_corr(scored.p, scored.y, mask=scored.mask)


def _fnc(scored: Scored) -> Tensor:
    return metrics.feature_neutral_corr(scored.p, scored.F, scored.y, mask=scored.mask)


def _utility(scored: Scored) -> Tensor:
    q = scored.reference(scored.p, scored.F, scored.mask).q
    return metrics.utility(q, scored.y, scored.reference.cost, scored.F, mask=scored.mask)


def _regret(scored: Scored) -> Tensor:
    return regret(scored.reference, scored.p, scored.y, scored.F, scored.mask)


def _calibration(scored: Scored) -> Tensor:
    return metrics.calibration_slope(scored.p, scored.y, mask=scored.mask)


def _exposure(scored: Scored) -> Tensor:
    return metrics.exposure(scored.q, scored.F, mask=scored.mask)


def _active(scored: Scored) -> Tensor:
    return metrics.active_share(scored.q, mask=scored.mask)


_OF_P = (Unscored.CONSTANT_PREDICTION,)
_OF_Q = (Unscored.UNCONVERGED, Unscored.CONSTANT_DECISION)
_OF_RANKED_Q = (*_OF_Q, Unscored.TOO_FEW_ROWS)
_OF_REFERENCE = (Unscored.REFERENCE_UNCONVERGED,)

METRICS: dict[str, Metric] = {
    "decision_corr": Metric(_decision_corr, 1, "numerai_corr of the decision q with the target", mean, _OF_RANKED_Q),
    "decision_sharpe": Metric(
        _decision_corr, 1, "Sharpe ratio of decision_corr over the eras, not annualised", sharpe, _OF_RANKED_Q
    ),
    "corr": Metric(_corr, 1, "numerai_corr of the prediction p with the target", mean, _OF_P),
    "fnc": Metric(_fnc, 1, "numerai_corr of p neutralised to the factors", mean, _OF_P),
    "utility": Metric(_utility, 1, "y·q − C(q) under the reference cost", mean, _OF_REFERENCE),
    "regret": Metric(
        _regret, -1, "utility lost against knowing the target, under the reference cost", mean, _OF_REFERENCE
    ),
    "calibration": Metric(_calibration, 0, "slope of the target on p; 1 is calibrated", mean, _OF_P),
    "exposure": Metric(_exposure, -1, "‖Fᵀq‖ / ‖q‖", mean, _OF_Q),
    "active": Metric(_active, 0, "share of rows with a decision other than 0", mean, _OF_Q),
}
"""Every metric, by name."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ScoringConfig:
    """How a model is scored, the same for every trial of a comparison.

    Attributes:
        cost: The reference cost. Utility and regret are measured under it, whatever cost a trial was trained with:
            otherwise a trial could win by choosing itself a cheaper solver.
        metric: A row of ``METRICS``: what early stopping, the scheduler and the search look at.
        top_bottom: Rows at each end that a rank correlation of the decision keeps; None keeps all.
    """

    cost: Cost
    metric: str = "decision_corr"
    top_bottom: int | None = None

    def __post_init__(self) -> None:
        require_one_of("scoring.metric", self.metric, METRICS)
        if METRICS[self.metric].direction == 0:
            raise ConfigurationError(f"scoring.metric: expected one that has a better and a worse, got {self.metric!r}")
        require_at_least("scoring.top_bottom", self.top_bottom, 1)
        object.__setattr__(self, "cost", Cost.of(self.cost))  # a single term is a cost too
        self.cost.require_strong_convexity()
        for name, strength in self.cost.strengths.items():
            if isinstance(strength, Tensor):
                raise ConfigurationError(f"scoring.cost.{name}: expected one number for all members, got {strength}")


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The metrics of members on eras.

    Attributes:
        eras: The eras' labels.
        series: By metric, the values ``[R, eras]`` in float64; NaN where an era has none.
        reasons: By metric, why it has none: an `Unscored` each ``[R, eras]``, 0 where there is a score.
        residual_max: The largest KKT residual of the decisions.
        unconverged: Decisions that did not converge; their eras are NaN.
    """

    eras: tuple[str, ...]
    series: dict[str, npt.NDArray[np.float64]]
    reasons: dict[str, npt.NDArray[np.uint8]]
    residual_max: float
    unconverged: int

    def on(self, eras: Sequence[str]) -> Scores:
        """The same of some of the eras, by their labels and in their order."""
        places = [self.eras.index(era) for era in eras]
        return replace(
            self,
            eras=tuple(eras),
            series={name: values[:, places] for name, values in self.series.items()},
            reasons={name: codes[:, places] for name, codes in self.reasons.items()},
        )

    def by_member(self, metric: str) -> npt.NDArray[np.float64]:
        """A metric of each member, ``[R]``."""
        return METRICS[metric].summary(self.series[metric])

    def unscored(self, metric: str) -> Counter[Unscored]:
        """How many eras × members have no score by a metric, for each reason that there is."""
        return Counter(Unscored(code) for code in self.reasons[metric].ravel().tolist() if code)

    def summary(self, prefix: str) -> dict[str, float]:
        """``prefix/metric`` and ``prefix/metric_std``: mean and standard deviation over the members that have one."""
        flat: dict[str, float] = {}
        for name in self.series:
            members = self.by_member(name)
            centre = float(mean(members))
            flat[f"{prefix}/{name}"] = centre
            flat[f"{prefix}/{name}_std"] = float(mean((members - centre) ** 2)) ** 0.5
        return flat


def score(
    members: Members,
    layer: SolverLayer,
    scoring: ScoringConfig,
    panel: Panel,
    eras: Sequence[int],
    workers: Workers = ALONE,
) -> Scores:
    """Predict, decide, and measure. A member with a prediction that is not finite has no score in any era.

    Args:
        members: The trained members.
        layer: The trial's own solver.
        scoring: What is measured, and under which reference cost.
        panel: The data.
        eras: Eras of the panel, as indices.
        workers: Those that score these members together: each measures the eras that it owns, all return the same.

    Returns:
        Every metric of ``METRICS``.
    """
    reference = SolverLayer(scoring.cost, tol=layer.tol, max_iter=layer.max_iter, on_failure="nan")
    device = next(iter(members.parameters.values())).device
    # Values and reasons of every metric; 0 in another worker's eras, so that the sum over workers is the whole.
    found = torch.zeros(2, len(METRICS), len(members), len(eras), dtype=torch.float64, device=device)
    mine, residual, unconverged = workers.share(panel, eras), 0.0, 0
    diverged = torch.zeros(len(members), dtype=torch.float64, device=device)
    with torch.no_grad():
        groups = _groups(panel, mine)
        batches = Loader(panel, [[eras[place] for place in places] for places in groups], device)
        for places, batch in zip(groups, batches, strict=True):
            p = members(batch.features, batch.present).double()
            finite = p.isfinite().flatten(1).all(1)
            diverged[~finite] = 1
            p = torch.where(finite[:, None, None], p, 0.0)
            solution = layer(p, batch.factors, batch.mask)
            residual = max(residual, float(solution.residual.max()))
            unconverged += int((~solution.converged).sum())
            y, F = batch.target.double(), batch.factors.double()
            found[..., places] = _measure(
                Scored(p, solution.q, y, F, batch.mask, batch.known, solution.converged, reference, scoring.top_bottom)
            )
    lost = workers.sum(diverged) > 0  # a member is scored on all eras, or on none
    found[0, :, lost], found[1, :, lost] = torch.nan, float(Unscored.DIVERGED)
    values, reasons = workers.sum(found).cpu().numpy()
    return Scores(
        tuple(panel.eras[era] for era in eras),
        dict(zip(METRICS, values, strict=True)),
        dict(zip(METRICS, reasons.astype(np.uint8), strict=True)),
        workers.max(residual, device),
        int(workers.sum(torch.tensor(unconverged, device=device))),
    )


def eras_at_once(panel: Panel) -> int:
    """How many eras of a panel are scored at once."""
    numbers = panel.num_rows * panel.num_features // panel.num_eras
    return max(1, min(_ERAS_AT_ONCE, _NUMBERS_AT_ONCE // numbers))


def _groups(panel: Panel, places: Sequence[int]) -> list[Sequence[int]]:
    """The eras in groups that are scored at once."""
    at_once = eras_at_once(panel)
    return [places[start : start + at_once] for start in range(0, len(places), at_once)]


def _measure(scored: Scored) -> Tensor:
    """Every metric of a batch, and why it is NaN where it is, ``[2, metrics, R, B]``."""
    measured: dict[Callable[[Scored], Tensor], Tensor] = {}
    for metric in METRICS.values():
        if metric.per_era not in measured:  # two summaries of one series are computed once
            measured[metric.per_era] = torch.stack([part.double() for part in metric.measure(scored)])
    return torch.stack([measured[metric.per_era] for metric in METRICS.values()], dim=1)
