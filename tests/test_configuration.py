"""Configurations as plain data: to JSON and back, by dotted path, by text; every error names the field."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.configuration import flatten, from_plain, replace_at, set_from_text, to_plain
from alignray.costs import Cost, Quadratic, SoftL1
from alignray.errors import ConfigurationError
from alignray.models import ModelConfig
from alignray.trial import ScoringConfig, TrialConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Inner:
    rate: float = 0.1
    name: str = "adamw"
    clip: float | None = None

    def __post_init__(self):
        if not self.rate > 0:
            raise ConfigurationError(f"inner.rate: expected a number above 0, got {self.rate}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Outer:
    count: int
    on: bool = False
    mode: Literal["fast", "slow"] = "fast"
    labels: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)
    table: Mapping[str, Inner] = field(default_factory=dict)
    either: int | str = 0
    anything: Any = None
    extra: Inner | None = None


OUTER = Outer(count=3, labels=("a", "b"), table={"x.y": Inner(rate=0.5)}, anything=[1, {"z": None}])
COST = Quadratic(1.0) + SoftL1(0.15, width=0.05)
TRIAL = TrialConfig(cost=COST, scoring=ScoringConfig(cost=Quadratic(2.0) + SoftL1(0.1)))


@pytest.mark.parametrize(
    "config", [OUTER, Outer(count=-1), TRIAL, Inner(clip=1.0)], ids=lambda config: repr(config)[:40]
)
def test_to_json_and_back(config):
    assert from_plain(type(config), json.loads(json.dumps(to_plain(config)))) == config


@given(
    st.builds(
        Outer,
        count=st.integers(-(2**53), 2**53),
        on=st.booleans(),
        mode=st.sampled_from(["fast", "slow"]),
        labels=st.lists(st.text()).map(tuple),
        inner=st.builds(Inner, rate=st.floats(1e-300, 1e300), name=st.text(), clip=st.none() | st.floats(-1e9, 1e9)),
        either=st.integers() | st.text(),
    )
)
def test_any_configuration_to_json_and_back(config):
    assert from_plain(Outer, json.loads(json.dumps(to_plain(config)))) == config


def test_defaults_fill_what_is_left_out():
    assert from_plain(Outer, {"count": 1}) == Outer(count=1)
    assert from_plain(Outer, {"count": 1, "inner": {"rate": 2}}).inner == Inner(rate=2.0)


def test_numbers_keep_their_kind():
    config = from_plain(Outer, {"count": 1, "inner": {"rate": 2}})
    assert type(config.inner.rate) is float
    assert type(config.count) is int


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({}, "^count: missing; Outer needs it"),
        ({"count": 1, "cuont": 2}, "^cuont: no such field; Outer has count, on, mode"),
        ({"count": 1.0}, "^count: expected an integer, got 1.0"),
        ({"count": True}, "^count: expected an integer, got True"),
        ({"count": "1"}, "^count: expected an integer, got '1'"),
        ({"count": 1, "on": 1}, "^on: expected true or false, got 1"),
        ({"count": 1, "mode": "medium"}, "^mode: expected one of 'fast', 'slow', got 'medium'"),
        ({"count": 1, "labels": "ab"}, "^labels: expected a list, got 'ab'"),
        ({"count": 1, "labels": ["a", 2]}, r"^labels\[1\]: expected text, got 2"),
        ({"count": 1, "inner": 5}, "^inner: expected the fields of Inner, got 5"),
        ({"count": 1, "inner": {"rate": "high"}}, "^inner.rate: expected a number, got 'high'"),
        ({"count": 1, "inner": {"rate": True}}, "^inner.rate: expected a number, got True"),
        ({"count": 1, "inner": {"clip": "no"}}, "^inner.clip: expected a number, got 'no'"),
        ({"count": 1, "inner": {"rtae": 1.0}}, "^inner.rtae: no such field; Inner has rate, name, clip"),
        ({"count": 1, "table": [1]}, r"^table: expected a mapping, got \[1\]"),
        ({"count": 1, "table": {"k": {"rate": None}}}, "^table.k.rate: expected a number, got None"),
        ({"count": 1, "either": 1.5}, "^either: expected an integer, got 1.5"),
        ([1], r"^configuration: expected the fields of Outer, got \[1\]"),
    ],
)
def test_plain_data_that_does_not_fit_is_named(plain, message):
    with pytest.raises(ConfigurationError, match=message):
        from_plain(Outer, plain)


def test_a_path_to_begin_with_is_part_of_the_name():
    with pytest.raises(ConfigurationError, match=r"^trial\.count: expected an integer"):
        from_plain(Outer, {"count": "x"}, path="trial")


@pytest.mark.parametrize("value", [object(), {1, 2}, 1j])
def test_what_json_cannot_hold_is_named(value):
    with pytest.raises(ConfigurationError, match="configuration: expected plain values, got"):
        to_plain(replace(OUTER, anything=value))


def test_flatten_joins_keys_by_dots_and_lists_become_text():
    flat = flatten(to_plain(OUTER))
    assert flat["inner.rate"] == 0.1
    assert flat["table.x.y.rate"] == 0.5
    assert flat["labels"] == '["a", "b"]'
    assert flat["inner.clip"] is None
    assert flatten(to_plain(TRIAL))["cost.soft_l1.strength"] == 0.15
    with pytest.raises(ConfigurationError, match="expected a mapping"):
        flatten([1])


def test_replace_at_a_dotted_path():
    changed = replace_at(OUTER, {"inner.rate": 3, "labels": ["c"], "table.x.y.name": "sgd"})
    assert changed == replace(OUTER, inner=Inner(rate=3.0), labels=("c",), table={"x.y": Inner(rate=0.5, name="sgd")})
    assert OUTER.inner.rate == 0.1


def test_a_path_into_an_optional_configuration_begins_with_its_defaults():
    assert OUTER.extra is None
    assert replace_at(OUTER, {"extra.rate": 3, "extra.name": "sgd"}).extra == Inner(rate=3.0, name="sgd")
    opened = set_from_text(OUTER, "extra.rate", "0.5")
    assert opened == replace(OUTER, extra=Inner(rate=0.5))
    assert set_from_text(opened, "extra.name", "sgd").extra == Inner(rate=0.5, name="sgd")
    assert set_from_text(OUTER, "extra", "{}").extra == Inner()
    assert set_from_text(opened, "extra", "null") == OUTER
    assert from_plain(Outer, json.loads(json.dumps(to_plain(opened)))) == opened


def test_replace_at_reaches_into_a_cost():
    changed = replace_at(TRIAL, {"cost.soft_l1.strength": 0.2, "scoring.cost.quadratic.strength": 3})
    assert changed.cost == Quadratic(1.0) + SoftL1(0.2, width=0.05)
    assert changed.scoring.cost.strengths["quadratic.strength"] == 3.0


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("inner.rtae", 1.0, r"^inner\.rtae: no such field; expected one of rate, name, clip"),
        ("count.more", 1, r"^count\.more: no such field; count is a single value"),
        ("inner.clip.more", 1, r"^inner\.clip\.more: no such field; inner\.clip is a single value"),
        ("extra.rtae", 1, r"^extra\.rtae: no such field; expected one of rate, name, clip"),
        ("extra.rate", -1, r"^inner\.rate: expected a number above 0"),
        ("", 1, "no such field"),
        ("inner.rate", "x", "^inner.rate: expected a number"),
        ("inner.rate", -1.0, "^inner.rate: expected a number above 0"),
    ],
)
def test_a_path_or_value_that_does_not_fit_is_named(path, value, message):
    with pytest.raises(ConfigurationError, match=message):
        replace_at(OUTER, {path: value})


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("cost.soft_l1.strength", "x", r"^cost\.soft_l1\.strength: expected a number, or one for each member, got 'x'"),
        (
            "scoring.cost.soft_l1.strength",
            "x",
            r"^scoring\.cost.*soft_l1\.strength: expected a number, or one for each member, got 'x'",
        ),
        ("cost.soft_l1.strength", -1.0, r"^cost.*strength of soft_l1: expected finite numbers of at least 0"),
        ("scoring.cost.soft_l1.width", -1.0, r"^scoring\.cost.*width of soft_l1: expected"),
        ("scoring.cost", {"cubic": {"strength": 1.0}}, r"^scoring\.cost.*cubic: no such term"),
    ],
)
def test_an_error_inside_a_cost_says_which_cost(path, value, message):
    with pytest.raises(ConfigurationError, match=message):
        replace_at(TRIAL, {path: value})


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("count", "7", replace(OUTER, count=7)),
        ("on", "true", replace(OUTER, on=True)),
        ("labels", '["p", "q"]', replace(OUTER, labels=("p", "q"))),
        ("mode", "slow", replace(OUTER, mode="slow")),
        ("inner.name", "sgd", replace(OUTER, inner=Inner(name="sgd"))),
        ("inner.name", "7", replace(OUTER, inner=Inner(name="7"))),
        ("inner.clip", "null", OUTER),
        ("inner.rate", "1e-3", replace(OUTER, inner=Inner(rate=1e-3))),
    ],
)
def test_text_is_read_as_the_field_needs_it(path, text, expected):
    assert set_from_text(OUTER, path, text) == expected


@pytest.mark.parametrize(
    ("path", "text", "message"),
    [
        ("count", "7.5", "count: expected an integer, got 7.5"),
        ("count", "seven", "count: expected an integer, got 'seven'"),
        ("on", "yes", "on: expected true or false, got 'yes'"),
        ("inner.rate", "NaN", "inner.rate: expected a number above 0, got nan"),
        ("nowhere", "1", "nowhere: no such field; expected one of count"),
    ],
)
def test_text_that_does_not_fit_is_named(path, text, message):
    with pytest.raises(ConfigurationError, match=message):
        set_from_text(OUTER, path, text)


def test_a_cost_is_plain_data_of_its_own_making():
    assert to_plain(TRIAL)["cost"] == COST.to_plain()
    assert from_plain(Cost, COST.to_plain()) == COST
    assert from_plain(ModelConfig, {}) == ModelConfig()
