"""Networks trained on panels: one arm, one panel, all that is asked about it afterwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

import alignray as ar
from alignray.data import Batch, Fold, Panel
from alignray.training import Members
from alignray.trial import METRICS, Scores, Trial, build_layer, score

STOPPED, LAST = "early stopping", "last epoch"
"""The two states of a trial that are scored: after its best epoch by validation utility, and after its last."""


@dataclass(frozen=True, kw_only=True, slots=True)
class World:
    """A generated panel whose truth is known, a new one for each seed.

    Attributes:
        stable: The share of the stable signal.
        unstable: The share of the factor returns.
        noise: The share of the label noise.
        eras: Eras to train on, to validate on, and held out.
        rows: The largest number of rows in an era.
        features: Features, which are the factors too.
    """

    stable: float
    unstable: float
    noise: float
    eras: tuple[int, int, int] = (100, 60, 150)
    rows: int = 60
    features: int = 20

    def panel(self, seed: int) -> Panel:
        """The panel of a seed."""
        return ar.datasets.synthetic(
            num_eras=sum(self.eras),
            rows=self.rows,
            num_features=self.features,
            seed=seed,
            stable=self.stable,
            unstable=self.unstable,
            noise=self.noise,
        )

    @property
    def fold(self) -> Fold:
        """The eras to train on and to validate on. Eras are independent, so no embargo is needed."""
        train, validation, _ = self.eras
        return Fold(range(train), range(train, train + validation))

    @property
    def held_out(self) -> range:
        """The eras held out."""
        return range(sum(self.eras[:2]), sum(self.eras))

    @property
    def scale(self) -> float:
        """About the standard deviation of the best prediction, in units of the target's."""
        return 0.9 * self.stable**0.5

    def oracle_utility(self, panel: Panel, cost: ar.Cost) -> float:
        """The mean utility, on the eras held out, of who predicts E[y | X]: the most that can be had."""
        batch = panel.batch(self.held_out)
        p = ar.datasets.synthetic_oracle(batch, stable=self.stable)
        return float(utility(p, batch, cost).mean())


def utility(p: torch.Tensor, batch: Batch, cost: ar.Cost) -> torch.Tensor:
    """``y·q(p) − C(q(p))`` of predictions ``[..., B, n]``, ``[..., B]``."""
    y, F = batch.target.double(), batch.factors.double()
    q = ar.SolverLayer(cost)(p, F, batch.mask).q
    return (y * q).sum(-1) - cost.finite_part(q, F, batch.mask)


def configured(
    arm: str, cost: ar.Cost, model: ar.ModelConfig, epochs: int, *, members: int, seed: int
) -> ar.TrialConfig:
    """A trial. But for its objective, its members' seeds and its cost, it is the same for every arm of every part.

    Args:
        arm: The objective.
        cost: The solver's cost, and the reference that utility is measured under.
        model: The network.
        epochs: All of them are trained, and the best by validation utility is kept beside the last.
        members: Networks that differ by their initial weights.
        seed: Of the initial weights and of the order of the eras.
    """
    training = ar.TrainingConfig(
        epochs=epochs, patience=epochs, eras_per_batch=8, optimiser=ar.OptimiserConfig(learning_rate=1e-2)
    )
    return ar.TrialConfig(
        objective=arm,
        cost=cost,
        scoring=ar.ScoringConfig(cost=cost, metric="utility"),
        model=model,
        training=training,
        members=members,
        seed=seed,
    )


@dataclass(frozen=True, slots=True)
class Trained:
    """A trial that has run through all its epochs.

    Attributes:
        best_epoch: The epoch that early stopping keeps, counted from 1; the first is the warm-up by mse.
        states: The members after that epoch, and after the last: by `STOPPED` and `LAST`.
    """

    best_epoch: int
    states: dict[str, Members]


def trained(config: ar.TrialConfig, panel: Panel, fold: Fold) -> Trained:
    """Train all epochs of a trial."""
    trial = Trial(config, panel, folds=[fold])
    while trial.epoch < config.training.epochs:
        trial.step()
    last = Members(config.model, panel.num_features, config.member_seeds, torch.device("cpu"))
    prefix = "fold0.members."
    tensors = trial.checkpoint().tensors
    last.load({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})
    return Trained(trial.best_epoch, {STOPPED: trial.best_members(), LAST: last})


def scored(
    members: Members, config: ar.TrialConfig, panel: Panel, eras: Sequence[int], cost: ar.Cost | None = None
) -> Scores:
    """The scores of members who decide, and are judged, under the trial's cost or under another one."""
    cost = config.cost if cost is None else cost
    config = replace(config, cost=cost, scoring=replace(config.scoring, cost=cost))
    return score(members, build_layer(config), config.scoring, panel, eras)


def averages(scores: Scores) -> dict[str, float]:
    """Every metric, averaged over the members; NaN where none has it."""
    found: dict[str, float] = {}
    for metric in METRICS:
        values = scores.by_member(metric)
        found[metric] = float(np.mean(values[np.isfinite(values)])) if np.isfinite(values).any() else float("nan")
    return found


def rescaled(members: Members, config: ar.TrialConfig, panel: Panel, eras: Sequence[int]) -> Members:
    """The members with each one's predictions multiplied by one number: the slope of the target on them on some eras.

    It is what somebody does who sees that predictions are out of scale, and asks no more of them.
    """
    batch = panel.batch(eras)
    with torch.no_grad():
        p = torch.where(batch.mask, members(batch.features, batch.present).double(), 0.0)
        slopes = (p * batch.target.double()).sum((-1, -2)) / p.square().sum((-1, -2))
    state = members.state()
    layers: Mapping[str, int] = {name: int(name.split(".")[0]) for name in state}
    output = max(layers.values())
    for name, layer in layers.items():
        if layer == output:  # the last layer is linear
            state[name] = state[name] * slopes.to(state[name]).reshape(-1, *[1] * (state[name].dim() - 1))
    copy = Members(config.model, panel.num_features, config.member_seeds, torch.device("cpu"))
    copy.load(state)
    return copy
