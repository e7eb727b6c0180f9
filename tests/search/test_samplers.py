"""The samplers by themselves: what they propose, from what, and what of it repeats."""

import math
import pickle
import random
import statistics
from pathlib import Path

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.errors import ConfigurationError
from alignray.search import SAMPLERS, Choice, Float, Int, SearchConfig, Space, open_studies

SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True),
        "family": Choice(("linear", "mlp")),
        "depth": Int(1, 3, when={"family": ("mlp",)}),
        "width": Int(8, 64, log=True, when={"family": ("mlp",), "depth": (2, 3)}),
    }
)
TEMPLATE = {"rate": 0.01, "family": "linear"}
LEARNING = [name for name, sampler in SAMPLERS.items() if sampler.learns]
BLIND = [name for name in SAMPLERS if name not in LEARNING]


def one(journal, *, space=SPACE, template=TEMPLATE, direction=1, **config):
    config = SearchConfig(**{"trials": 12, "initial_points": 3, "grid_points": 3, **config})
    options = {"space": space, "template": template, "config": config, "metrics": {"score": direction}}
    return open_studies(journal, sweep="demo", sweep_id="1", arms=("aligned",), **options)["aligned"]


def score_of(values):
    return -((math.log10(values["rate"]) + 1) ** 2) - 0.3 * (values["family"] == "linear") + values.get("depth", 0) / 9


def exists(values):
    """Whether the point has exactly the fields that there are."""
    mlp = values["family"] == "mlp"
    return ("depth" in values) == mlp and ("width" in values) == (mlp and values["depth"] > 1)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_keeps_to_a_space_with_conditions(tmp_path, sampler):
    study = one(tmp_path / "journal", sampler=sampler)
    for number in range(12):
        values = study.ask().values
        assert exists(values)
        assert all(value in SPACE.distributions[path] for path, value in values.items())
        study.complete(number, score_of(values))


@pytest.mark.parametrize("sampler", LEARNING)
def test_a_sampler_that_learns_moves_to_where_scores_are_high(tmp_path, sampler):
    study = one(tmp_path / "journal", sampler=sampler, trials=32, initial_points=6)
    distances = []
    for number in range(32):
        values = study.ask().values
        distances.append(abs(math.log10(values["rate"]) + 1))
        study.complete(number, -(distances[-1] ** 2))
    assert statistics.median(distances[22:]) < 0.4  # of 3; where points are random it is above 0.9


@pytest.mark.parametrize("sampler", BLIND)
def test_a_sampler_that_does_not_learn_proposes_the_same_whatever_happens(tmp_path, sampler):
    good, bad = (one(tmp_path / name, sampler=sampler) for name in ("good", "bad"))
    for number in range(9):
        assert good.ask() == bad.ask()
        good.complete(number, float(number))
        bad.fail(number, "made to")


def run(study, trials, dice, workers=4):
    """Run a study as so many workers would who end in a random order; the values of every trial."""
    points, running = [], []
    while running or len(points) < trials:
        if len(points) < trials and len(running) < workers and study.ready:
            proposal = study.ask()
            points.append(proposal.values)
            running.append(proposal)
            continue
        ended = running.pop(dice.randrange(len(running)))
        if ended.number % 5 == 3:
            study.report(ended.number, 1, score_of(ended.values))
            study.prune(ended.number)
        elif ended.number % 7 == 5:
            study.fail(ended.number, "made to")
        else:
            study.complete(ended.number, score_of(ended.values))
    return points


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("lag", [1, 5])
def test_with_a_lag_proposals_do_not_depend_on_which_trial_ended_first(tmp_path, sampler, lag):
    options = {"sampler": sampler, "lag": lag}
    first, other = (run(one(tmp_path / f"{seed}", **options), 9, random.Random(seed)) for seed in range(2))
    assert first == other
    # nor on how many workers there are
    assert run(one(tmp_path / "alone", **options), 9, random.Random(0), workers=1) == first


def test_without_a_lag_they_do(tmp_path):
    runs = [run(one(tmp_path / f"{seed}", lag=0), 12, random.Random(seed)) for seed in range(3)]
    assert runs[0] != runs[1]


@given(lag=st.integers(1, 6), data=st.data())
def test_a_proposal_waits_for_the_trials_before_its_lag_and_no_other(tmp_path_factory, lag, data):
    study = one(tmp_path_factory.mktemp("lag") / "journal", lag=lag, initial_points=2, sampler="random")
    study._sampler.learns = True  # random numbers stand for a slow sampler
    running = []
    for number in range(8):
        while not study.ready:
            ended = running.pop(data.draw(st.integers(0, len(running) - 1)))
            study.complete(ended, 0.0)
        needed = range(max(number + 1 - lag, 0)) if number >= 2 else ()
        assert not set(needed) & set(running)
        running.append(study.ask().number)
    assert number in running


def test_the_points_of_a_trial_that_runs_are_seen_where_it_is_not_how_it_does(tmp_path):
    """TPE keeps away from where trials run; that one of them has a score already must not matter."""
    points = []
    for reported in (False, True):
        study = one(tmp_path / str(reported), lag=2, initial_points=2)
        for _ in range(2):
            study.ask()
        study.complete(0, 0.5)
        if reported:
            study.report(1, 1, 9.0)
            study.complete(1, 9.0)
        points.append(study.ask().values)
    assert points[0] == points[1]


def test_the_grid_is_every_combination_once_and_no_more(tmp_path):
    grid = SPACE.grid(3, 1000)
    assert len(grid) == 3 * (1 + (1 + 3 + 3))  # a depth of 1 has no width, and a linear model neither
    assert all(exists(point) for point in grid)
    assert sorted({point["rate"] for point in grid}) == pytest.approx([1e-4, 1e-2, 1.0])
    study = one(tmp_path / "journal", sampler="grid", trials=24)
    points = [study.ask().values for _ in range(24)]
    assert sorted(map(str, points)) == sorted(map(str, grid))
    assert points != grid  # in an order of the seed's


@pytest.mark.parametrize(
    ("distribution", "points", "values"),
    [
        (Float(0.0, 1.0), 3, (0.0, 0.5, 1.0)),
        (Float(0.01, 1.0, log=True), 3, (0.01, 0.1, 1.0)),
        (Float(0.3, 0.3), 4, (0.3,)),
        (Float(0.2, 0.8), 1, (0.2,)),
        (Int(1, 4), 4, (1, 2, 3, 4)),
        (Int(1, 9), 3, (1, 5, 9)),
        (Int(1, 100, log=True), 3, (1, 10, 100)),
        (Int(1, 3, log=True), 5, (1, 2, 3)),
        (Choice(("a", "b", "c")), 2, ("a", "b", "c")),
    ],
)
def test_the_values_that_a_grid_tries(distribution, points, values):
    grid = distribution.grid(points)
    assert len(grid) == len(values)
    assert grid == values or grid == pytest.approx(values)
    assert all(value in distribution for value in grid)


@given(unit=st.floats(0, 1, exclude_max=True))
@pytest.mark.parametrize(
    "distribution",
    [Float(1e-5, 3.0, log=True), Float(-1, 2), Int(-2, 7), Int(3, 50, log=True), Choice((1, "a", True, 0.5))],
)
def test_every_place_of_the_unit_interval_is_a_value(distribution, unit):
    assert distribution.at(unit) in distribution


def test_all_whole_numbers_are_as_likely():
    assert [Int(1, 4).at(share / 8) for share in range(8)] == [1, 1, 2, 2, 3, 3, 4, 4]


def test_quasi_random_points_fill_the_space_more_evenly_than_chance(tmp_path):
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})

    def empty_cells(sampler):
        study = one(tmp_path / sampler, space=space, template={}, sampler=sampler, trials=65)
        points = [study.ask().values for _ in range(65)][1:]
        return 64 - len({(int(8 * point["x"]), int(8 * point["y"])) for point in points})

    assert empty_cells("qmc") == 0
    assert empty_cells("random") > 10


def test_cmaes_goes_on_with_its_generation_from_one_opening_to_the_next(tmp_path):
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    generations = []
    for number in range(30):
        study = one(tmp_path / "journal", space=space, template={}, sampler="cmaes", trials=30)
        values = study.ask().values
        study.complete(number, -((values["x"] - 0.9) ** 2))
        generations.append(study._frozen()[-1].system_attrs.get("cma:generation"))
    assert generations[-1] >= 3
    assert {name for trial in study._frozen() for name in trial.system_attrs} == {"cma:generation"}


def test_cmaes_proposes_what_optunas_own_does_which_keeps_its_distribution(tmp_path, monkeypatch):
    def proposals(name):
        study = one(tmp_path / name, sampler="cmaes", trials=24)
        return [go_on(study, number) for number in range(24)]

    def go_on(study, number):
        values = study.ask().values
        study.complete(number, score_of(values))
        return values

    retold = proposals("retold")
    theirs = {"n_startup_trials": 0, "warn_independent_sampling": False}
    own = staticmethod(lambda seed: optuna.samplers.CmaEsSampler(seed=seed, **theirs))
    monkeypatch.setattr(SAMPLERS["cmaes"], "optuna_sampler", own)
    assert retold == proposals("kept")


class Touching:
    """What somebody who can write to the studies may leave there: unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_that_is_found_in_a_study_is_unpickled(tmp_path):
    space = Space({"x": Float(0.0, 1.0), "y": Float(0.0, 1.0)})
    study = one(tmp_path / "journal", space=space, template={}, sampler="cmaes", trials=30)
    for number in range(10):
        study.complete(study.ask().number, 0.1 * number)
    trap = pickle.dumps(Touching(tmp_path / "made")).hex()
    for trial in study._frozen():
        trial.system_attrs["cma:optimizer:0"] = trap
    study.ask()
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("space", "config", "complaint"),
    [
        (SPACE, {"sampler": "grid", "trials": 25}, r"search\.trials: expected at most 24.*got 25.*grid_points"),
        (
            Space({f"x{n}": Float(0.0, 1.0) for n in range(12)}),
            {"sampler": "grid"},
            r"space: its grid has more than 100000 points",
        ),
        (Space({"family": Choice(("a", "b"))}), {"sampler": "cmaes"}, r"search\.sampler: .*no number"),
    ],
)
def test_spaces_that_a_sampler_cannot_search(space, config, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        SearchConfig(**{"grid_points": 3, **config}).require_space(space)


@pytest.mark.parametrize("sampler", LEARNING)
def test_no_sampler_warns(tmp_path, sampler, caplog):
    optuna.logging.enable_propagation()
    try:
        study = one(tmp_path / "journal", sampler=sampler)
        for number in range(8):
            study.complete(number, score_of(study.ask().values))
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records
