"""Members: many networks as one, each the same as alone."""

from __future__ import annotations

import pytest
import torch

from alignray.errors import InvalidArgumentError
from alignray.models import MODELS, ModelConfig, build_model
from alignray.training import Members

SEEDS = (3, 1, 4)
families = pytest.mark.parametrize("family", MODELS)


def members(family: str = "mlp", seeds: tuple[int, ...] = SEEDS, device: str = "cpu") -> Members:
    return Members(ModelConfig(family=family, width=8), 5, seeds, torch.device(device))


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@families
def test_predictions_are_those_of_separate_networks(family, device):
    X = features(2, 7, 5).to(device)
    p = members(family, device=device)(X)
    assert p.shape == (3, 2, 7)
    for row, seed in zip(p, SEEDS, strict=True):
        alone = build_model(ModelConfig(family=family, width=8), 5, seed=seed).to(device)
        torch.testing.assert_close(row, alone(X).squeeze(-1))


@families
def test_gradients_are_those_of_separate_networks(family):
    X, packed = features(2, 7, 5), members(family)
    packed(X).square().sum().backward()
    for index, seed in enumerate(SEEDS):
        alone = build_model(ModelConfig(family=family, width=8), 5, seed=seed)
        alone(X).square().sum().backward()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(packed.parameters[name].grad[index], parameter.grad)


def test_as_many_members_as_seeds():
    assert len(members()) == 3
    assert len(members(seeds=(7,))) == 1
    with pytest.raises(InvalidArgumentError, match="seeds: expected at least one"):
        members(seeds=())


def test_a_state_is_a_copy():
    packed = members()
    state = packed.state()
    with torch.no_grad():
        next(iter(packed.parameters.values())).zero_()
    assert next(iter(state.values())).count_nonzero() > 0
    packed.load(state)
    state["0.weight"].zero_()
    assert packed.parameters["0.weight"].count_nonzero() > 0


def test_a_state_makes_other_members_the_same():
    X, ours, theirs = features(4, 5), members(), members(seeds=(7, 8, 9))
    assert not ours(X).equal(theirs(X))
    theirs.load(ours.state())
    assert ours(X).equal(theirs(X))
    assert all(parameter.requires_grad for parameter in theirs.parameters.values())


def test_a_state_that_does_not_fit_is_named():
    state = members().state()
    with pytest.raises(InvalidArgumentError, match=r"state: expected 0\.weight of shape"):
        members(seeds=(1, 2)).load(state)
    with pytest.raises(InvalidArgumentError, match="state: expected parameters"):
        members("linear").load(state)
    with pytest.raises(InvalidArgumentError, match="state: expected parameters"):
        members().load({name: value for name, value in state.items() if name != "0.bias"})
