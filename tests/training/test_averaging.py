"""Averages of the weights, against the same by hand."""

from __future__ import annotations

import pytest
import torch

from alignray.errors import ConfigurationError
from alignray.training.averaging import Average, AveragingConfig

VALUES = [{"w": torch.full((2, 3), float(i)), "b": torch.tensor([i * i])} for i in (1.0, 5.0, 2.0, 7.0)]


def averaged(config: AveragingConfig) -> Average:
    average = Average(config, {name: torch.full_like(value, 99.0) for name, value in VALUES[0].items()})
    assert not average.ready
    for values in VALUES:
        average.update(values)
    assert average.ready
    return average


def test_swa_is_the_mean():
    mean = averaged(AveragingConfig(kind="swa")).mean
    torch.testing.assert_close(mean["w"], torch.full((2, 3), 15 / 4))
    torch.testing.assert_close(mean["b"], torch.tensor([(1 + 25 + 4 + 49) / 4]))


def test_ema_forgets_and_never_remembers_the_initial_weights():
    mean = averaged(AveragingConfig(kind="ema", decay=0.6)).mean
    # The mean of two, then 0.4 of each that follows.
    expected = 0.6 * (0.6 * 3.0 + 0.4 * 2.0) + 0.4 * 7.0
    torch.testing.assert_close(mean["w"], torch.full((2, 3), expected))


@pytest.mark.parametrize("kind", ["ema", "swa"])
def test_an_average_goes_on_from_its_state(kind):
    config = AveragingConfig(kind=kind, decay=0.7)
    whole = averaged(config)
    half = Average(config, VALUES[0])
    for values in VALUES[:2]:
        half.update(values)
    resumed = Average(config, VALUES[3])
    resumed.load(half.state())
    for values in VALUES[2:]:
        resumed.update(values)
    assert all(resumed.mean[name].equal(whole.mean[name]) for name in whole.mean)
    assert resumed.state()["count"] == 4


def test_what_is_averaged_is_left_alone():
    values = {"w": torch.ones(3, requires_grad=True)}
    average = Average(AveragingConfig(kind="swa"), values)
    average.update(values)
    assert values["w"].equal(torch.ones(3))
    assert not average.mean["w"].requires_grad
    average.state()["mean.w"].add_(1)
    assert average.mean["w"].equal(torch.ones(3))


@pytest.mark.parametrize("values", [{"kind": "polyak"}, {"decay": 1.0}, {"decay": -0.1}, {"start": -1}])
def test_what_is_out_of_range_is_refused(values):
    with pytest.raises(ConfigurationError, match=f"averaging.{next(iter(values))}"):
        AveragingConfig(**values)


@pytest.mark.parametrize(("kind", "taken"), [("none", []), ("ema", [2, 3, 4, 5]), ("swa", [3, 5])])
def test_what_is_taken_in_begins_after_the_start(kind, taken):
    config = AveragingConfig(kind=kind, start=1)
    assert [step for step in range(6) if config.takes(step, 2)] == taken
