"""Searching by several metrics at once."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigurationError
from alignray.search import Choice, Float, Int, SearchConfig, Space, on_front, open_studies

SPACE = Space(
    {
        "x": Float(0.0, 1.0),
        "family": Choice(("linear", "mlp")),
        "depth": Int(1, 3, when={"family": ("mlp",)}),
    }
)
METRICS = {"fnc": 1, "exposure": -1}


def one(journal, metrics=METRICS, **config):
    return open_studies(
        journal,
        sweep="demo",
        sweep_id="1",
        arms=("aligned",),
        space=SPACE,
        template={"x": 0.5},
        config=SearchConfig(**{"trials": 20, "initial_points": 4, **config}),
        metrics=metrics,
    )["aligned"]


@given(
    st.lists(st.tuples(*[st.integers(0, 5)] * 3), min_size=1, max_size=12), st.tuples(*[st.sampled_from([1, -1])] * 3)
)
def test_on_the_front_is_what_nothing_dominates(points, directions):
    front = on_front(points, directions)
    signed = np.array(points) * directions
    for index, point in enumerate(signed):
        dominated = any((other >= point).all() and (other > point).any() for other in signed)
        assert front[index] == (not dominated)
    assert front.any()


def test_no_points_no_front():
    assert on_front(np.empty((0, 2)), (1, 1)).shape == (0,)


@pytest.mark.parametrize("sampler", ["tpe", "gp", "random"])
def test_a_study_of_several_metrics_records_them_all_and_goes_on(tmp_path, sampler):
    journal = tmp_path / "journal"
    for number in range(12):
        study = one(journal, sampler=sampler)  # opened again each time
        values = study.ask().values
        study.report(number, 1, values["x"] / 2)
        if number % 5 == 3:
            study.prune(number)
        elif number == 6:
            study.fail(number, "made to")
        else:
            study.complete(number, values["x"], {"exposure": values["x"] ** 2, "corr": 0.0})
    rows = one(journal).rows()
    for row in rows:
        x = row.values["x"]
        if row.state == "complete":
            assert row.scores == {"fnc": x, "exposure": x**2}
            assert row.value == x
        else:
            assert row.scores == {}
            assert row.value == x / 2


def test_the_search_finds_both_ends_of_the_front(tmp_path):
    study = one(tmp_path / "journal", trials=40)
    found = []
    for number in range(40):
        x = study.ask().values["x"]
        found.append((x, abs(x - 0.5)))  # from 0.5, which exposes least, to 1, which scores most
        study.complete(number, found[-1][0], {"exposure": found[-1][1]})
    front = [point for point, is_on in zip(found, on_front(found, (1, -1)), strict=True) if is_on]
    assert max(x for x, _ in front) > 0.95
    assert min(exposure for _, exposure in front) < 0.05
    assert sum(x >= 0.5 for x, _ in found) > 28  # 20, were points random


def test_the_best_is_the_best_scored_of_the_front(tmp_path):
    study = one(tmp_path / "journal")
    for number, (score, exposure) in enumerate([(0.1, 0.0), (0.3, 5.0), (0.3, 2.0), (0.3, 2.0), (0.2, 1.0)]):
        study.ask()
        study.complete(number, score, {"exposure": exposure})
    assert study.best().number == 2  # as good as number 1, and less exposed


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"metrics": ("fnc",)}, r"search\.metrics: expected at least two"),
        ({"metrics": ("fnc", "fnc")}, r"search\.metrics: expected at least two, each once"),
        ({"metrics": ("fnc", "profit")}, r"search\.metrics: expected some of .*, got 'profit'"),
        ({"metrics": ("fnc", "exposure"), "sampler": "cmaes"}, r"search\.sampler: expected one of tpe, gp, random"),
    ],
)
def test_metrics_that_are_refused(config, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        SearchConfig(**config)


def test_pairs_that_no_metric_separates_are_all_on_the_front():
    points = list(itertools.repeat((1.0, 2.0), 3))
    assert on_front(points, (1, -1)).all()
