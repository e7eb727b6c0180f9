"""The optimiser of members: a rate and a decay each, as if each were trained alone by torch; its state."""

from __future__ import annotations

import pytest
import torch

from alignray.errors import ConfigurationError
from alignray.training import OPTIMISERS, OptimiserConfig
from alignray.training.optimiser import MemberOptimiser
from alignray.training.schedule import ScheduleConfig

RATES, DECAYS = (0.02, 0.05, 0.001), (0.5, 0.0, 0.1)


def parameters() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(3, *shape, generator=generator).requires_grad_()
        for name, shape in {"w": (4, 2), "b": (5,)}.items()
    }


def gradients(step: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1 + step)
    return {name: torch.randn(value.shape, generator=generator) for name, value in parameters().items()}


def walk(config: OptimiserConfig, steps: range = range(4), shares=lambda step: 1.0) -> dict[str, torch.Tensor]:
    values = parameters()
    optimiser = MemberOptimiser(config, values)
    for step in steps:
        for name, gradient in gradients(step).items():
            values[name].grad = gradient.clone()
        optimiser.step(shares(step))
    return values


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("clip", [None, 0.5])
def test_each_member_goes_its_own_way(name, clip):
    together = walk(OptimiserConfig(name=name, learning_rate=RATES, weight_decay=DECAYS, gradient_clip=clip))
    for member, (rate, decay) in enumerate(zip(RATES, DECAYS, strict=True)):
        alone = walk(OptimiserConfig(name=name, learning_rate=rate, weight_decay=decay, gradient_clip=clip))
        for key, value in together.items():
            torch.testing.assert_close(value[member], alone[key][member], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
def test_one_rate_for_all_is_torch(name):
    config = OptimiserConfig(name=name, learning_rate=0.03, weight_decay=0.2)
    values = parameters()
    plain = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}[name](values.values(), lr=0.03, weight_decay=0.2)
    for step in range(4):
        for key, gradient in gradients(step).items():
            values[key].grad = gradient
        plain.step()
    for key, value in walk(config).items():
        torch.testing.assert_close(value, values[key], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rates", [0.03, RATES])
def test_a_share_of_the_rate_is_a_smaller_rate(name, rates):
    half = tuple(rate / 2 for rate in rates) if isinstance(rates, tuple) else rates / 2
    shared = walk(OptimiserConfig(name=name, learning_rate=rates), shares=lambda _: 0.5)
    for key, value in walk(OptimiserConfig(name=name, learning_rate=half)).items():
        torch.testing.assert_close(value, shared[key], rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rates", [0.03, RATES])
def test_where_float16_overflows_nothing_moves_and_nothing_decays(name, rates):
    values = parameters()
    optimiser = MemberOptimiser(OptimiserConfig(name=name, learning_rate=rates, weight_decay=0.5), values, scaled=True)
    for overflows in (False, True, False):
        before = {key: value.detach().clone() for key, value in values.items()}
        for key, gradient in gradients(0).items():
            values[key].grad = optimiser.scale(gradient)
        if overflows:
            values["b"].grad[1, 0] = torch.inf
        optimiser.step()
        assert all(value.equal(before[key]) == overflows for key, value in values.items())


@pytest.mark.parametrize("name", OPTIMISERS)
@pytest.mark.parametrize("rates", [0.03, RATES])
def test_it_goes_on_from_its_state_to_the_bit(name, rates):
    config = OptimiserConfig(name=name, learning_rate=rates)
    whole = walk(config)
    values = parameters()
    first = MemberOptimiser(config, values)
    for step in range(4):
        if step == 2:
            state = {key: value.clone() for key, value in first.state().items()}
            first = MemberOptimiser(config, values)
            first.load(state)
        for key, gradient in gradients(step).items():
            values[key].grad = gradient.clone()
        first.step()
    assert all(values[key].equal(whole[key]) for key in whole)


@pytest.mark.parametrize("field", ["learning_rate", "weight_decay"])
def test_another_number_of_members_is_refused(field):
    with pytest.raises(
        ConfigurationError, match=rf"optimiser.{field}: expected one number, or one for each of 3 .* got 2"
    ):
        MemberOptimiser(OptimiserConfig(**{field: (0.1, 0.2)}), parameters())


@pytest.mark.parametrize(
    "values", [{"learning_rate": (0.1, 0.0)}, {"weight_decay": (0.1, -1.0)}, {"learning_rate": ()}]
)
def test_what_is_out_of_range_is_refused(values):
    with pytest.raises(ConfigurationError, match=f"optimiser.{next(iter(values))}"):
        OptimiserConfig(**values)


def test_a_configuration_with_a_rate_each_is_plain_data():
    from alignray.configuration import from_plain, to_plain

    config = OptimiserConfig(learning_rate=RATES, schedule=ScheduleConfig(name="cosine", warmup=0.1))
    assert from_plain(OptimiserConfig, to_plain(config)) == config
