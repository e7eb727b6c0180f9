import json

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

import alignray as ar
from alignray.configuration import from_plain, replace_at, to_plain
from alignray.errors import ConfigurationError
from alignray.launch import find_sweep
from alignray.search import Choice, Float, Int, Space

SPACE = Space(
    {
        "cost.soft_l1.strength": Float(0.01, 0.5, log=True),
        "model.family": Choice(("linear", "mlp")),
        "model.depth": Int(1, 3, when={"model.family": ("mlp",)}),
        "model.activation": Choice(("relu", "silu"), when={"model.family": ("mlp",), "model.depth": (2, 3)}),
        "training.optimiser.weight_decay": Float(0.0, 0.1),
    }
)


@pytest.fixture(scope="module")
def trial_config():
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05) + ar.FactorPenalty(0.1)
    return ar.TrialConfig(cost=cost, scoring=ar.ScoringConfig(cost=cost))


def fixed(**values):
    return optuna.trial.FixedTrial({path.replace("__", "."): value for path, value in values.items()})


def test_a_field_exists_only_where_its_condition_holds():
    common = {"cost__soft_l1__strength": 0.1, "training__optimiser__weight_decay": 0.0}
    linear = SPACE.suggest(fixed(model__family="linear", **common))
    assert set(linear) == {"cost.soft_l1.strength", "model.family", "training.optimiser.weight_decay"}
    shallow = SPACE.suggest(fixed(model__family="mlp", model__depth=1, **common))
    assert set(shallow) == set(linear) | {"model.depth"}
    deep = SPACE.suggest(fixed(model__family="mlp", model__depth=3, model__activation="relu", **common))
    assert list(deep) == list(SPACE.distributions)  # in the order in which they are drawn


def test_a_condition_on_a_field_that_does_not_exist_does_not_hold():
    chain = Space(
        {
            "model.family": Choice(("linear", "mlp")),
            "model.depth": Int(1, 3, when={"model.family": ("mlp",)}),
            "model.width": Int(4, 8, when={"model.depth": (1, 2, 3)}),
        }
    )
    assert chain.suggest(fixed(model__family="linear")) == {"model.family": "linear"}


def test_what_a_study_draws_lies_in_the_space_and_fits_the_configuration(trial_config):
    space = find_sweep("quickstart").space
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=3))
    seen = set()
    for _ in range(60):
        values = space.suggest(study.ask())
        for path, value in values.items():
            assert value in space.distributions[path]
        assert ("model.depth" in values) == (values["model.family"] != "linear")
        config = replace_at(trial_config, values)
        assert config.cost.strengths["soft_l1.strength"] == values["cost.soft_l1.strength"]
        assert space.values_of(config) == values
        seen.add(values["model.family"])
    assert seen == {"linear", "mlp", "resmlp"}


def test_the_values_of_a_configuration_are_a_point_of_the_space(trial_config):
    config = replace_at(trial_config, {"model.family": "mlp", "model.depth": 2})
    assert SPACE.values_of(config) == {
        "cost.soft_l1.strength": 0.05,
        "model.family": "mlp",
        "model.depth": 2,
        "model.activation": config.model.activation,
        "training.optimiser.weight_decay": config.training.optimiser.weight_decay,
    }


def test_values_outside_their_distribution_and_fields_under_a_condition_are_left_out(trial_config):
    config = replace_at(trial_config, {"model.family": "linear", "cost.soft_l1.strength": 0.001})
    assert set(SPACE.values_of(config)) == {"model.family", "training.optimiser.weight_decay"}
    outside = replace_at(trial_config, {"model.family": "resmlp"})
    assert set(SPACE.values_of(outside)) == {"cost.soft_l1.strength", "training.optimiser.weight_decay"}


def test_the_space_of_every_template_fits_its_trial():
    for name in ("quickstart",):
        sweep = find_sweep(name)
        sweep.space.require_fit(sweep.trial)


@pytest.mark.parametrize(
    ("distributions", "complaint"),
    [
        ({"model.depht": Int(1, 2)}, "space.model.depht: .*no such field"),
        ({"cost.soft_l2.strength": Float(0.1, 1.0)}, "space.cost.soft_l2.strength: .*no such field"),
        ({"model.depth": Float(0.5, 2.5)}, "space.model.depth: .*an integer"),
        ({"model.depth": Choice(("two",))}, "space.model.depth: .*an integer"),
        ({"model.family": Choice(("mlp", "transformer"))}, "space.model.family: .*transformer"),
        ({"model.depth": Int(0, 3)}, "space.model.depth: .*at least 1, got 0"),
        ({"cost.quadratic.strength": Float(0.0, 1.0)}, "space.cost.quadratic.strength: .*Quadratic"),
        ({"model.width": Int(8, 16, when={"model.family": ("mlp",)})}, "space.model.width: .*'model.family'.*before"),
        (
            {"model.width": Int(8, 16, when={"model.family": ("mlp",)}), "model.family": Choice(("mlp",))},
            "space.model.width: .*'model.family'.*before",
        ),
    ],
)
def test_a_space_that_does_not_fit_is_refused_with_its_path(trial_config, distributions, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        Space(distributions).require_fit(trial_config)


def test_a_sweep_with_such_a_space_cannot_be_made(trial_config):
    with pytest.raises(ConfigurationError, match=r"space\.model\.depht"):
        ar.SweepConfig(
            template="t",
            trial=trial_config,
            space=Space({"model.depht": Int(1, 2)}),
            holdout=ar.HoldoutConfig(eras=10),
        )


@pytest.mark.parametrize(
    "make",
    [
        lambda: Float(1.0, 0.5),
        lambda: Float(float("nan"), 1.0),
        lambda: Float(0.0, 1.0, log=True),
        lambda: Int(3, 2),
        lambda: Int(0, 2, log=True),
        lambda: Choice(()),
        lambda: Float("a", 1.0),
        lambda: Float(True, 2.0),
        lambda: Int(1.5, 3),
        lambda: Int(1, 3, log="maybe"),
        lambda: Choice(([1],)),
        lambda: Choice("mlp"),
    ],
)
def test_a_distribution_that_makes_no_sense_is_refused(make):
    with pytest.raises(ConfigurationError, match=r"low|options|log"):
        make()


conditions = st.none() | st.dictionaries(
    st.sampled_from(["model.family", "a.b"]), st.lists(st.integers(0, 3), min_size=1, max_size=3).map(tuple), max_size=2
)
numbers = st.floats(1e-6, 1e6)
distributions = st.one_of(
    st.builds(
        lambda a, b, log, when: Float(min(a, b), max(a, b), log=log, when=when),
        numbers,
        numbers,
        st.booleans(),
        conditions,
    ),
    st.builds(
        lambda a, b, log, when: Int(min(a, b), max(a, b), log=log, when=when),
        st.integers(1, 99),
        st.integers(1, 99),
        st.booleans(),
        conditions,
    ),
    st.builds(
        Choice,
        st.lists(st.booleans() | st.integers() | numbers | st.text(max_size=5), min_size=1, max_size=4).map(tuple),
        conditions,
    ),
)


@given(st.dictionaries(st.text("abc._", min_size=1, max_size=8), distributions, max_size=5))
def test_a_space_survives_the_way_through_plain_data(by_path):
    space = Space(by_path)
    plain = json.loads(json.dumps(to_plain(space)))
    again = from_plain(Space, plain)
    assert again == space
    assert list(again.distributions) == list(space.distributions)


@pytest.mark.parametrize(
    "plain",
    [
        5,
        ["a"],
        {"a": 1},
        {"a": {"kind": "normal", "low": 0, "high": 1}},
        {"a": {"kind": ["float"], "low": 0, "high": 1}},
        {"a": {"kind": "float", "low": 0}},
        {"a": {"kind": "float", "low": 0, "high": 1, "step": 2}},
        {"a": {"kind": "float", "low": 0, "high": "1"}},
        {"a": {"kind": "float", "low": 0, "high": 1, "when": ["model.family"]}},
        {"a": {"kind": "float", "low": 0, "high": 1, "when": {"model.family": 3}}},
        {"a": {"kind": "int", "low": 0.5, "high": 1}},
        {"a": {"kind": "choice", "options": 5}},
        {"a": {"kind": "choice", "options": "mlp"}},
        {"a": {"kind": "choice", "options": None}},
    ],
)
def test_plain_data_that_is_no_space_is_refused(plain):
    with pytest.raises(ConfigurationError, match=r"space"):
        from_plain(Space, plain)


def test_the_largest_points_have_the_largest_numbers_and_every_family():
    space = Space(
        {
            **SPACE.distributions,
            "model.width": Choice((64, 16), when={"model.family": ("mlp",)}),
            "members": Int(2, 8),
            "model.residual": Choice((False, True)),
        }
    )
    assert space.largest(("model.family", "model.depth", "model.width", "members")) == [
        {"model.family": "linear", "members": 8},
        {"model.family": "mlp", "model.depth": 3, "model.width": 64, "members": 8},
    ]
    assert space.largest(("model.residual",)) == [{"model.residual": False}, {"model.residual": True}]
    assert space.largest(("model.width",)) == [{}], "its condition is not looked at, so it does not hold"
