"""Members that are given a learning rate, a decay and cost strengths each: as trials of their own, packed into one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from alignray.configuration import from_plain, to_plain
from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.errors import ConfigurationError
from alignray.models import ModelConfig
from alignray.objectives import OBJECTIVES
from alignray.training import OptimiserConfig, TrainingConfig
from alignray.trial import ScoringConfig, Trial, TrialConfig

REFERENCE = Quadratic(1.0) + SoftL1(0.1, width=0.1) + FactorPenalty(0.05)
STRENGTHS, RATES, DECAYS = (0.02, 0.3), (0.2, 0.05), (0.0, 0.1)


def config(*, strength, rate, decay, members, seed=0, **changes) -> TrialConfig:
    # Not Adam, which turns the rounding of a gradient that is next to 0 into a step of full size.
    optimiser = OptimiserConfig(name="sgd", learning_rate=rate, weight_decay=decay)
    fields = {
        "cost": Quadratic(1.0) + SoftL1(strength, width=0.1) + FactorPenalty(0.05),
        "scoring": ScoringConfig(cost=REFERENCE),
        "model": ModelConfig(width=6),
        "training": TrainingConfig(epochs=3, eras_per_batch=4, warmup_epochs=0, optimiser=optimiser),
        "members": members,
        "seed": seed,
    }
    return TrialConfig(**fields | changes)


def together(**changes) -> TrialConfig:
    return config(strength=torch.tensor(STRENGTHS), rate=RATES, decay=DECAYS, members=2, **changes)


@pytest.mark.parametrize("arm", OBJECTIVES)
def test_each_member_is_a_trial_of_its_own(arm, panel):
    packed = Trial(together(objective=arm), panel)
    alone = [
        Trial(config(strength=s, rate=r, decay=d, members=1, objective=arm), panel)
        for s, r, d in zip(STRENGTHS, RATES, DECAYS, strict=True)
    ]
    # A trial of one member has the weights of the first seed: give the second one those of the packed second.
    start = packed._trainers[0].members.state()
    for member, one in enumerate(alone):
        one._trainers[0].members.load({name: value[member : member + 1] for name, value in start.items()})
    for _ in range(3):
        metrics = packed.step()
        singles = [one.step() for one in alone]
        for name in ("val/utility", "val/regret", "val/calibration"):  # ranks turn on the rounding of near ties
            assert metrics[name] == pytest.approx(np.mean([single[name] for single in singles]), rel=1e-3, abs=1e-5)
    weights = packed._trainers[0].members.state()
    for member, one in enumerate(alone):
        for name, value in one._trainers[0].members.state().items():
            torch.testing.assert_close(weights[name][member], value[0], rtol=1e-3, atol=1e-5)


def test_its_configuration_is_plain_data():
    plain = to_plain(together())
    assert plain["cost"]["soft_l1"]["strength"] == pytest.approx(STRENGTHS)
    assert to_plain(from_plain(TrialConfig, plain)) == plain
    assert together().members_differ
    assert not config(strength=0.1, rate=0.1, decay=0.0, members=2).members_differ


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strength": torch.ones(3)},
            r"cost.soft_l1.strength: expected one number, or one for each of 2 members, got .*\[3\]",
        ),
        ({"strength": torch.ones(2, 1)}, r"cost.soft_l1.strength: .* got a tensor of shape \[2, 1\]"),
        (
            {"rate": (0.1, 0.1, 0.1)},
            "optimiser.learning_rate: expected one number, or one for each of 2 members, got 3",
        ),
    ],
)
def test_another_number_than_members_is_refused(changes, message):
    with pytest.raises(ConfigurationError, match=message):
        config(**{"strength": 0.1, "rate": 0.1, "decay": 0.0, "members": 2} | changes)


def test_the_reference_cost_is_the_same_for_all():
    with pytest.raises(ConfigurationError, match=r"scoring.cost.soft_l1.strength: expected one number for all members"):
        ScoringConfig(cost=Quadratic(1.0) + SoftL1(torch.tensor([0.1, 0.2])))
