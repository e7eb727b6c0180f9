"""The families of networks: shapes, seeds, scales, and the errors of their configuration."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from alignray.errors import ConfigurationError
from alignray.models import MODELS, ModelConfig, build_model
from alignray.models.networks import ACTIVATIONS

families = pytest.mark.parametrize("family", MODELS)


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@families
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_one_number_a_row_whatever_the_batch(family, activation):
    model = build_model(ModelConfig(family=family, activation=activation, width=8), 5, seed=0)
    X = features(2, 3, 7, 5)
    p = model(X)
    assert p.shape == (2, 3, 7, 1)
    torch.testing.assert_close(model(X[1, 2, 4]), p[1, 2, 4])
    assert p.std() > 0


@families
def test_the_seed_decides_the_weights_and_nothing_else_does(family):
    config = ModelConfig(family=family)
    torch.manual_seed(123)
    first = build_model(config, 5, seed=1).state_dict()
    torch.rand(7)
    again, other = build_model(config, 5, seed=1).state_dict(), build_model(config, 5, seed=2).state_dict()
    assert all(first[name].equal(again[name]) for name in first)
    assert any(not first[name].equal(other[name]) for name in first)


@families
def test_the_global_random_state_is_left_as_it_was(family, device):
    before = torch.get_rng_state(), torch.cuda.get_rng_state_all()
    build_model(ModelConfig(family=family), 5, seed=1)
    assert torch.get_rng_state().equal(before[0])
    assert all(a.equal(b) for a, b in zip(before[1], torch.cuda.get_rng_state_all(), strict=True))


@families
def test_building_does_not_reseed_the_gpus(family, monkeypatch):
    """Seen without a GPU too: `torch.manual_seed` would call this one."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("all GPUs were seeded"))
    build_model(ModelConfig(family=family), 5, seed=1)


@families
def test_output_scale_multiplies_the_weights_of_the_last_layer_alone(family):
    plain = build_model(ModelConfig(family=family), 5, seed=0).state_dict()
    scaled = build_model(ModelConfig(family=family, output_scale=3.0), 5, seed=0).state_dict()
    last = list(plain)[-2]
    assert last.endswith("weight")
    for name, value in plain.items():
        torch.testing.assert_close(scaled[name], 3.0 * value if name == last else value)


@families
def test_the_last_layer_is_linear_to_one(family):
    last = build_model(ModelConfig(family=family, width=8), 5, seed=0)[-1]
    assert isinstance(last, nn.Linear)
    assert last.out_features == 1


@pytest.mark.parametrize(("family", "hidden"), [("mlp", 0), ("resmlp", 1)])
@pytest.mark.parametrize("depth", [1, 3])
def test_depth_counts_hidden_layers_or_blocks(family, hidden, depth):
    model = build_model(ModelConfig(family=family, depth=depth, width=8), 5, seed=0)
    linears = [module for module in model.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == depth + hidden + 1
    assert {linear.out_features for linear in linears[:-1]} == {8}


def test_linear_is_linear():
    model = build_model(ModelConfig(family="linear"), 5, seed=0)
    X = features(3, 5)
    torch.testing.assert_close(model(X).squeeze(-1), X @ model[0].weight[0] + model[0].bias)


def test_a_residual_block_adds_to_what_it_is_given():
    model = build_model(ModelConfig(family="resmlp", depth=1, width=8), 5, seed=0)
    X = features(3, 8)
    torch.testing.assert_close(model[1](X) - X, model[1].block(X))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("family", "cnn", "one of linear, mlp, resmlp"),
        ("activation", "sine", "one of relu, silu, tanh"),
        ("depth", 0, "at least 1"),
        ("width", 0, "at least 1"),
        ("output_scale", 0.0, "a number above 0"),
        ("output_scale", float("nan"), "a number above 0"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, expected):
    with pytest.raises(ConfigurationError, match=f"model.{field}: expected {expected}.*, got {value!r}"):
        ModelConfig(**{field: value})
