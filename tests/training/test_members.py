"""Members: many networks as one, each the same as alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from registry import ACROSS_ROWS, MODEL_CASES
from torch import nn

from alignray.errors import ConfigurationError, InvalidArgumentError
from alignray.models import ModelConfig, build_model
from alignray.training import Members

SEEDS = (3, 1, 4)
cases = pytest.mark.parametrize("case", MODEL_CASES)
DROPPING = [name for name in MODEL_CASES if not name.startswith(("linear", "own"))]


def members(case: str = "mlp", seeds: tuple[int, ...] = SEEDS, device: str = "cpu", **changes) -> Members:
    return Members(replace(MODEL_CASES[case], **changes), 5, seeds, torch.device(device))


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def given_to(model: Members | nn.Module, case: str, X: torch.Tensor) -> torch.Tensor:
    """Predictions where the second era ends after four rows."""
    present = torch.arange(X.shape[-2], device=X.device) < torch.tensor([[X.shape[-2]], [4]], device=X.device)
    return model(X, present) if isinstance(model, Members) or case in ACROSS_ROWS else model(X)


@cases
def test_predictions_are_those_of_separate_networks(case, device):
    X = features(2, 7, 5).to(device)
    p = given_to(members(case, device=device), case, X)
    assert p.shape == (3, 2, 7)
    for row, seed in zip(p, SEEDS, strict=True):
        alone = build_model(MODEL_CASES[case], 5, seed=seed).to(device)
        torch.testing.assert_close(row, given_to(alone, case, X).squeeze(-1))
        torch.testing.assert_close(row, given_to(members(case, (seed,), device), case, X)[0])


@cases
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_gradients_are_those_of_separate_networks(case, seeds):
    X, packed = features(2, 7, 5), members(case, seeds)
    given_to(packed, case, X).square().sum().backward()
    for index, seed in enumerate(seeds):
        alone = build_model(MODEL_CASES[case], 5, seed=seed)
        given_to(alone, case, X).square().sum().backward()
        for name, parameter in alone.named_parameters():
            torch.testing.assert_close(packed.parameters[name].grad[index], parameter.grad, rtol=1e-4, atol=1e-5)


def learnt(packed: Members, *given: torch.Tensor, **options) -> list[torch.Tensor]:
    """Predictions, and the gradients of some loss of them."""
    p = packed(*given, **options)
    return [p, *torch.autograd.grad(p.square().sum(), [*packed.parameters.values()])]


@cases
@pytest.mark.parametrize("shape", [(5, 7), (2, 3, 7), (40,)])
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_a_batch_that_is_too_large_for_the_caches_gives_the_same(case, shape, apart, seeds, monkeypatch):
    packed, X = members(case, seeds), features(*([len(seeds)] if apart else []), *shape, 5)
    present = torch.rand(X.shape[:-1], generator=torch.Generator().manual_seed(1)) < 0.8
    for given in ((X,), (X, present)):
        whole = learnt(packed, *given, apart=apart)
        for rows in (1, 15):  # one era at a time, or two
            with monkeypatch.context() as patch:
                patch.setattr("alignray.training.members._ROWS_AT_ONCE", rows)
                for found, expected in zip(learnt(packed, *given, apart=apart), whole, strict=True):
                    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_what_is_dropped_of_it_depends_on_the_seed_alone(seeds, monkeypatch):
    monkeypatch.setattr("alignray.training.members._ROWS_AT_ONCE", 7)
    packed, X = members("mlp", seeds, dropout=0.5), torch.ones(4, 7, 5)
    p = packed(X, seed=1)
    assert packed(X, seed=1).equal(p)
    assert p.flatten(1).std(dim=1).min() > 0
    assert len({era.sum().item() for era in p[0]}) == 4
    if len(seeds) > 1:
        twins = members("mlp", (7, 7), dropout=0.5)
        assert not torch.equal(*twins(X, seed=1))


@pytest.mark.parametrize("case", ACROSS_ROWS)
def test_rows_that_only_pad_are_not_seen(case):
    packed, X = members(case), features(2, 7, 5)
    p = given_to(packed, case, X)
    torch.testing.assert_close(p[:, 1, :4], packed(X[1, :4]))
    assert packed.sees_era
    assert not packed(X)[:, 1, :4].allclose(p[:, 1, :4])


@pytest.mark.parametrize("case", DROPPING)
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_what_is_dropped_depends_on_the_seed_alone(case, seeds, device):
    packed, X = members(case, seeds, device, dropout=0.5), features(2, 7, 5).to(device)
    before = torch.get_rng_state()
    p = packed(X, seed=1)
    torch.rand(3)
    torch.testing.assert_close(packed(X, seed=1), p, rtol=0, atol=0)
    assert not packed(X, seed=2).allclose(p)
    packed(X, seed=-(10**30))
    torch.set_rng_state(before)
    packed(X, seed=1)
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("case", DROPPING)
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_nothing_is_dropped_in_scoring(case, seeds):
    dropping, X = members(case, seeds, dropout=0.5), features(2, 7, 5)
    dropping(X, seed=1)
    torch.testing.assert_close(dropping(X), members(case, seeds)(X))
    assert not dropping(X).allclose(dropping(X, seed=1))


def test_each_member_drops_its_own():
    X = torch.ones(50, 5)
    packed = members("mlp", (7, 7), dropout=0.5, depth=1, width=64)
    torch.testing.assert_close(*packed(X))
    first, second = packed(X, seed=1)
    assert not first.allclose(second)
    assert first.std() > 0  # and so does each row


def test_a_seed_is_nothing_to_a_network_that_drops_nothing():
    packed, X = members(), features(4, 5)
    torch.testing.assert_close(packed(X, seed=1), packed(X), rtol=0, atol=0)


class Buffered(nn.Sequential):
    def __init__(self, config, num_features):
        super().__init__(nn.Linear(num_features, 1), nn.BatchNorm1d(1))


class Bare(nn.Module):
    def __init__(self, config, num_features):
        super().__init__()

    def forward(self, features):
        return features[..., :1]


class Squeezed(nn.Linear):
    def __init__(self, config, num_features):
        super().__init__(num_features, 1)

    def forward(self, features):
        return super().forward(features).squeeze(-1)


class ForAnother(nn.Linear):
    def __init__(self, config, num_features):
        super().__init__(num_features + 1, 1)


class Branching(nn.Linear):
    def __init__(self, config, num_features):
        super().__init__(num_features, 1)

    def forward(self, features):
        p = super().forward(features)
        return p if p.sum() > 0 else -p


@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (Buffered, r"no buffers .*, got 4 parameters and the buffers 1\.running_mean, "),
        (Squeezed, r"predictions \[2, 3, 1\] of features \[2, 3, 5\], one number a row, got \[2, 3\]"),
        (ForAnother, r"predictions \[2, 3, 1\] of features \[2, 3, 5\], got RuntimeError: "),
    ],
)
def test_a_network_of_ones_own_that_does_not_fit_is_named_in_one_line(kind, expected, seeds):
    config = ModelConfig(family=f"{__name__}:{kind.__name__}")
    expected = f"^model.family: expected '{__name__}:{kind.__name__}' to (have|give) .*{expected}"
    with pytest.raises(ConfigurationError, match=expected) as raised:
        Members(config, 5, seeds, torch.device("cpu"))
    assert "\n" not in str(raised.value)


def test_so_is_one_that_has_no_parameters_or_that_cannot_be_vectorised():
    with pytest.raises(ConfigurationError, match=r"to have parameters .*, got 0 parameters and the buffers none"):
        Members(ModelConfig(family=f"{__name__}:Bare"), 5, SEEDS, torch.device("cpu"))
    with pytest.raises(ConfigurationError, match=r"got RuntimeError: .*data-dependent control flow"):
        Members(ModelConfig(family=f"{__name__}:Branching"), 5, SEEDS, torch.device("cpu"))


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


@cases
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_a_state_makes_other_members_the_same(case, seeds):
    X, ours, theirs = features(4, 5), members(case, seeds), members(case, tuple(seed + 7 for seed in seeds))
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


@cases
@pytest.mark.parametrize("seeds", [SEEDS, (3,)])
def test_a_copy_goes_its_own_way(case, seeds):
    X, packed = features(4, 5), members(case, seeds)
    p = packed(X)
    p.sum().backward()
    other = copy.deepcopy(packed)
    with torch.no_grad():
        for parameter in other.parameters.values():
            parameter.add_(1.0)
    assert not other(X).equal(p)
    assert packed(X).equal(p)
