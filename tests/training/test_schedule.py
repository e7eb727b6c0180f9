"""Learning-rate schedules: where they begin and end, and that they are torch's where torch has them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigurationError
from alignray.training.schedule import SCHEDULES, ScheduleConfig

STEPS = 50


def shares(config: ScheduleConfig, steps: int = STEPS) -> list[float]:
    return [config.share(step, steps) for step in range(steps)]


@pytest.mark.parametrize("name", SCHEDULES)
@given(steps=st.integers(1, 300), warmup=st.floats(0, 1, exclude_max=True))
def test_shares_lie_between_0_and_1_and_no_step_is_wasted(name, steps, warmup):
    found = shares(ScheduleConfig(name=name, warmup=warmup), steps)
    assert all(0 < share <= 1 for share in found)


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_warmup_rises_linearly_to_the_schedule(name):
    config, plain = ScheduleConfig(name=name, warmup=0.2), ScheduleConfig(name=name)
    found = shares(config)
    assert found[:10] == pytest.approx([(step + 1) / 11 for step in range(10)])
    assert found[10:] == pytest.approx([plain.share(step, 40) for step in range(40)])


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("constant", lambda optimiser: torch.optim.lr_scheduler.ConstantLR(optimiser, factor=1.0)),
        ("cosine", lambda optimiser: torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, T_max=STEPS)),
        (
            "one_cycle",
            # It reaches its peak and its end one step earlier than a share of all steps does.
            lambda optimiser: torch.optim.lr_scheduler.OneCycleLR(
                optimiser, max_lr=1.0, total_steps=STEPS + 1, pct_start=(0.3 * STEPS + 1) / (STEPS + 1)
            ),
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step")
def test_schedules_are_those_of_torch(name, reference):
    optimiser = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9)
    scheduler = reference(optimiser)
    for share in shares(ScheduleConfig(name=name)):
        assert share == pytest.approx(optimiser.param_groups[0]["lr"], abs=1e-4)
        scheduler.step()


@pytest.mark.parametrize("values", [{"name": "linear"}, {"warmup": -0.1}, {"warmup": 1.0}, {"warmup": float("nan")}])
def test_what_is_out_of_range_is_refused(values):
    with pytest.raises(ConfigurationError, match=f"schedule.{next(iter(values))}"):
        ScheduleConfig(**values)
