"""The families of networks: shapes, seeds, scales, and the errors of their configuration."""

from __future__ import annotations

import json

import pytest
import torch
from registry import ACROSS_ROWS, MODEL_CASES
from torch import nn

from alignray.configuration import from_plain, set_from_text, to_plain
from alignray.errors import ConfigurationError
from alignray.models import MODELS, CrossConfig, ModelConfig, TabmConfig, build_model, sees_era
from alignray.models.networks import ACTIVATIONS

families = pytest.mark.parametrize("family", MODELS)
cases = pytest.mark.parametrize("case", MODEL_CASES)


def features(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@cases
def test_one_number_a_row_whatever_the_batch(case):
    model = build_model(MODEL_CASES[case], 5, seed=0)
    X = features(2, 3, 7, 5)
    p = model(X)
    assert p.shape == (2, 3, 7, 1)
    torch.testing.assert_close(model(X[1, 2]), p[1, 2])
    assert p.std() > 0


@families
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_what_a_hidden_layer_has(family, activation):
    model = build_model(ModelConfig(family=family, activation=activation, width=8), 5, seed=0)
    found = [module for module in model.modules() if type(module) in ACTIVATIONS.values()]
    assert {type(module) for module in found} == ({ACTIVATIONS[activation]} if family != "linear" else set())


@cases
def test_a_row_sees_its_era_where_the_network_says_so(case):
    model = build_model(MODEL_CASES[case], 5, seed=0)
    X = features(7, 5)
    changed = X.clone()
    changed[3] = 1.0
    moved = (model(changed) - model(X)).abs().squeeze(-1) > 1e-6
    assert moved[3]
    assert moved.all() if case in ACROSS_ROWS else moved.sum() == 1
    assert sees_era(model) == (case in ACROSS_ROWS)


@pytest.mark.parametrize("case", ACROSS_ROWS)
def test_rows_that_only_pad_are_not_seen(case):
    model = build_model(MODEL_CASES[case], 5, seed=0)
    X = features(2, 7, 5)
    present = torch.arange(7) < torch.tensor([[7], [4]])
    alone = model(X[1, :4])
    for padding in (0.0, 1e6):
        padded = X.masked_fill(~present.unsqueeze(-1), padding)
        p = model(padded, present)
        torch.testing.assert_close(p[1, :4], alone)
        torch.testing.assert_close(p[0], model(X[0]))
        assert p.isfinite().all()


@pytest.mark.parametrize("case", ACROSS_ROWS)
def test_the_order_of_the_rows_is_nothing_to_the_network(case):
    model, X = build_model(MODEL_CASES[case], 5, seed=0), features(9, 5)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(model(X[order]), model(X)[order])


@cases
def test_every_parameter_has_a_finite_gradient(case):
    model = build_model(MODEL_CASES[case], 5, seed=0)
    p = model(features(2, 7, 5))
    (p * features(*p.shape)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        # A head's bias shifts all its scores alike, and the softmax does not see it.
        assert parameter.grad.abs().max() > 1e-9 or name.endswith("score.bias"), name


@cases
def test_gradients_are_those_of_finite_differences(case):
    model = build_model(MODEL_CASES[case], 3, seed=0).double()
    X = (features(1, 4, 3).double() / 2).requires_grad_()
    assert torch.autograd.gradcheck(model, (X,))


@cases
def test_the_seed_decides_the_weights_and_nothing_else_does(case):
    config = MODEL_CASES[case]
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
    model = build_model(ModelConfig(family=family, width=8), 5, seed=0)
    seen: list[torch.Tensor] = []
    model[-1].register_forward_pre_hook(lambda layer, given: seen.append(given[0]))
    p = model(features(4, 5))
    torch.testing.assert_close(model[-1](2 * seen[0]) - model[-1](0 * seen[0]), 2 * (p - model[-1](0 * seen[0])))


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


def test_tabm_is_the_mean_of_its_copies():
    model = build_model(ModelConfig(family="tabm", depth=2, width=8, tabm=TabmConfig(copies=3)), 5, seed=0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2)))
    X, alone = features(7, 5), []
    for copy in range(3):
        x = X
        for layer in (model[1], model[3]):
            weight = layer.s[copy][:, None] * layer.shared.weight * layer.r[copy]  # a rank-1 change of the weights
            x = nn.functional.silu(x @ weight.T + layer.bias[copy])
        alone.append(x @ model[-1].weight[copy] + model[-1].bias[copy])
    torch.testing.assert_close(model(X).squeeze(-1), torch.stack(alone).mean(0))
    assert not alone[0].allclose(alone[1])


def test_the_copies_of_tabm_start_apart_by_the_signs_of_their_inputs_alone():
    model = build_model(ModelConfig(family="tabm", depth=2, width=8), 40, seed=0)
    first, second = model[1], model[3]
    assert first.r.abs().eq(1).all()
    assert first.r.std() > 0.9
    assert all(adapter.eq(1).all() for adapter in (first.s, second.r, second.s))


def test_cross_with_the_mean_adds_what_the_mean_row_says():
    config = ModelConfig(family="cross", depth=1, width=8, normalisation="none", cross=CrossConfig(pooling="mean"))
    model, X = build_model(config, 5, seed=0), features(7, 5)
    h, block = model[0](X), model[1]
    inner = block.own(h) + h.mean(0) @ block.context.weight.T
    torch.testing.assert_close(model(X), model[2](h + nn.functional.silu(inner)))


def test_heads_weight_the_rows_of_an_era():
    config = ModelConfig(
        family="cross", depth=1, width=8, normalisation="none", cross=CrossConfig(pooling="attention", heads=3)
    )
    model, X = build_model(config, 5, seed=0), features(7, 5)
    h, block = model[0](X), model[1]
    shares = block.score(h).exp()
    summary = ((shares / shares.sum(0)).T @ h).flatten()
    inner = block.own(h) + block.context.weight @ summary
    torch.testing.assert_close(model(X), model[2](h + nn.functional.silu(inner)))


def test_an_embedded_code_is_a_row_of_its_feature_whatever_the_rounding():
    front = build_model(ModelConfig(embedding=3), 4, seed=0)[0]
    codes = torch.randint(5, (6, 4), generator=torch.Generator().manual_seed(0))
    standardised = (codes - 2) / 2**0.5
    expected = front.weight[torch.arange(4), codes].flatten(-2)
    torch.testing.assert_close(front(standardised.float()), expected)
    between = front(standardised.float() + 0.5 / 2**0.5)
    above = front.weight[torch.arange(4), (codes + 1).clamp(max=4)].flatten(-2)
    torch.testing.assert_close(between, (expected + above) / 2)
    torch.testing.assert_close(front(torch.full((4,), 9.0)), front.weight[:, 4].flatten())


def test_the_front_knows_how_panels_standardise_codes():
    from alignray.data import code_moments
    from alignray.data.layout import BINS
    from alignray.models import layers

    assert (BINS, code_moments(BINS)) == (layers._CODES, (layers._MEAN, layers._STD))


@families
def test_dropout_is_in_the_hidden_layers_alone(family):
    model = build_model(ModelConfig(family=family, depth=3, dropout=0.5), 5, seed=0)
    dropped = [module.p for module in model.modules() if isinstance(module, nn.Dropout)]
    assert dropped == ([] if family == "linear" else [0.5] * 3)


class NoModule:
    def __init__(self, config, num_features):
        pass


def fails(config, num_features):
    raise RuntimeError("no such\nluck")


@pytest.mark.parametrize(
    ("family", "expected"),
    [
        ("no_such_package:Net", r"can be imported here, got 'no_such_package:Net' \(ModuleNotFoundError: "),
        ("registry:NoSuchNet", r"can be imported here, got 'registry:NoSuchNet' \(AttributeError: "),
        (f"{__name__}:NoModule", "to give a torch.nn.Module, got NoModule"),
        (f"{__name__}:fails", r"from \(config, 5\), got RuntimeError: no such luck"),
    ],
)
def test_a_family_of_ones_own_that_is_none_is_named_in_one_line(family, expected):
    with pytest.raises(ConfigurationError, match=f"^model.family: expected .*{expected}.*$") as raised:
        build_model(ModelConfig(family=family), 5, seed=0)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("family", "cnn", "one of linear, mlp, resmlp"),
        ("family", "my package:Net", "one of linear, mlp, resmlp"),
        ("activation", "sine", "one of relu, silu, tanh"),
        ("normalisation", "batch", "one of none, layer, rms"),
        ("dropout", 1.0, "a number from 0 to below 1"),
        ("dropout", float("nan"), "a number from 0 to below 1"),
        ("embedding", -1, "at least 0"),
        ("depth", 0, "at least 1"),
        ("width", 0, "at least 1"),
        ("output_scale", 0.0, "a number above 0"),
        ("output_scale", float("nan"), "a number above 0"),
    ],
)
def test_a_field_that_cannot_be_is_named(field, value, expected):
    with pytest.raises(ConfigurationError, match=f"model.{field}: expected {expected}.*, got {value!r}"):
        ModelConfig(**{field: value})


def test_what_one_family_has_is_checked_too():
    with pytest.raises(ConfigurationError, match=r"model\.tabm\.copies: expected at least 1, got 0"):
        TabmConfig(copies=0)
    with pytest.raises(ConfigurationError, match=r"model\.cross\.heads: expected at least 1, got 0"):
        CrossConfig(heads=0)
    with pytest.raises(ConfigurationError, match=r"model\.cross\.pooling: expected one of mean, attention, got 'max'"):
        CrossConfig(pooling="max")


@pytest.mark.parametrize("config", MODEL_CASES.values())
def test_a_configuration_survives_json(config):
    assert from_plain(ModelConfig, json.loads(json.dumps(to_plain(config)))) == config


def test_fields_of_every_depth_are_set_by_their_path():
    config = set_from_text(ModelConfig(), "family", "tabm")
    config = set_from_text(set_from_text(config, "tabm.copies", "4"), "normalisation", "rms")
    assert config == ModelConfig(family="tabm", tabm=TabmConfig(copies=4), normalisation="rms")
