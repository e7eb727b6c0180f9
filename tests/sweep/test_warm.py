import math
from dataclasses import replace

import pytest

import alignray as ar
from alignray.errors import SweepError
from alignray.search import SearchConfig, TrialRow, open_studies
from alignray.sweep import Manifest, past_of
from alignray.sweep.warm import load_past

PATH = "cost.soft_l1.strength"
EPOCHS = "training.epochs"


def row(arm, number, state, value, **values):
    values = {PATH: 0.05, **{key.replace("__", "."): given for key, given in values.items()}}
    scores = {"decision_corr": value} if state == "complete" else {}
    return TrialRow(arm, number, state, value, 3, None, values, {}, scores)


@pytest.fixture
def old(make_sweep, panel):
    return Manifest.of("old", make_sweep(arms=("mse", "aligned")), panel, "sqlite:////tmp/mlflow.db")


@pytest.fixture
def rows():
    return {
        arm: [
            row(arm, 0, "complete", 0.1),
            row(arm, 1, "pruned", 0.05),
            row(arm, 2, "failed", 0.2),
            row(arm, 3, "running", 0.3),
            replace(row(arm, 4, "complete", 0.4), values={PATH: 0.4}),
        ]
        for arm in ("mse", "aligned")
    }


def test_what_ended_with_a_score_within_the_new_space_is_told(old, rows, make_sweep, tmp_path):
    narrower = make_sweep(arms=("aligned",), space=ar.Space({PATH: ar.Float(0.01, 0.1)}))
    past = past_of(old, rows, narrower, old.data["digest"])
    assert [found.number for found in past.trials["aligned"]] == [0, 1]
    assert past.record == {
        "sweep": "old",
        "id": old.id,
        "trials": {"aligned": 2},
        "left_out": {"aligned": 1},
    }
    assert load_past(tmp_path) == {}
    past.save(tmp_path)
    assert load_past(tmp_path) == past.trials


def test_a_field_that_the_new_space_lacks_is_left_out_and_one_that_it_has_more_leaves_the_trial_out(
    old, rows, make_sweep
):
    told = past_of(old, {"mse": [row("mse", 0, "complete", 0.1, training__epochs=4)]}, one_arm(make_sweep), digest(old))
    assert told.trials["mse"][0].values == {PATH: 0.05}
    more = one_arm(make_sweep, space=ar.Space({PATH: ar.Float(0.01, 0.5), EPOCHS: ar.Int(1, 9)}))
    with pytest.raises(SweepError, match="arm 'mse' of sweep 'old' has no trial that is a point of this space"):
        past_of(old, rows, more, digest(old))


def one_arm(make_sweep, **changes):
    return make_sweep(**{"arms": ("mse",), **changes})


def digest(manifest):
    return manifest.data["digest"]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"holdout": ar.HoldoutConfig(eras=7)}, "its holdout is another"),
        ({"arms": ("mse", "misaligned")}, "it has no arm misaligned"),
        ({"search": SearchConfig(sampler="qmc")}, "sampler qmc does not look at earlier trials"),
        ({"search": SearchConfig(sampler="cmaes")}, "sampler cmaes does not look at earlier trials"),
        ({"search": SearchConfig(metrics=("decision_corr", "fnc"))}, "it searched by other metrics"),
    ],
)
def test_what_could_not_be_compared_is_refused_in_words(old, rows, make_sweep, changes, complaint):
    with pytest.raises(SweepError, match=complaint):
        past_of(old, rows, one_arm(make_sweep, **changes), digest(old))


def test_other_data_and_other_scores_are_refused(old, rows, make_sweep):
    with pytest.raises(SweepError, match="its data are others"):
        past_of(old, rows, one_arm(make_sweep), "0" * 64)
    sweep = one_arm(make_sweep)
    other = replace(sweep, trial=replace(sweep.trial, scoring=replace(sweep.trial.scoring, metric="corr")))
    with pytest.raises(SweepError, match=r"scored otherwise.*other metrics"):
        past_of(old, rows, other, digest(old))


@pytest.mark.parametrize("sampler", ["tpe", "gp"])
def test_the_past_moves_the_sampler_and_is_no_trial(tmp_path, sampler):
    space = ar.Space({"x": ar.Float(0.0, 1.0), "y": ar.Float(0.0, 1.0)})

    def study(name, past):
        return open_studies(
            tmp_path / name,
            sweep="demo",
            sweep_id="1",
            arms=("mse",),
            space=space,
            template={"x": 0.5, "y": 0.5},
            config=SearchConfig(sampler=sampler, trials=8, initial_points=1),
            metrics={"decision_corr": 1},
            past={"mse": past},
        )["mse"]

    def seen(target):
        units = [(n / 24, math.fmod(0.618 * n, 1.0)) for n in range(25)]
        return [
            TrialRow(
                "mse",
                n,
                "complete",
                -abs(x - target),
                3,
                None,
                {"x": x, "y": y},
                {},
                {"decision_corr": -abs(x - target)},
            )
            for n, (x, y) in enumerate(units)
        ]

    points = {}
    for target in (0.1, 0.9):
        warmed = study(str(target), seen(target))
        points[target] = [warmed.ask().values["x"] for _ in range(4)]
        assert [found.number for found in warmed.rows()] == [0, 1, 2, 3]
        assert warmed.best() is None
        assert points[target][0] == 0.5  # the template first, as ever
    assert max(points[0.1][1:]) < min(points[0.9][1:])
