import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from alignray.errors import ConfigurationError
from alignray.report import paired_summary, paired_table, write_paired
from alignray.report.figures import paired_figures
from alignray.search import Choice, Float, SearchConfig, Space, open_studies

ARMS = ("mse", "aligned", "misaligned")
SPACE = Space({"cost.l1": Float(0.0, 1.0), "model": Choice(("a", "b")), "depth": Float(1, 2, when={"model": ("b",)})})


def manifest_of(arms=ARMS):
    config = SimpleNamespace(
        arms=arms,
        space=SPACE,
        holdout=SimpleNamespace(level=0.9),
        trial=SimpleNamespace(scoring=SimpleNamespace(metric="corr")),
    )
    return SimpleNamespace(config=config)


def trials_of(score, number=30, arms=ARMS):
    dice = np.random.default_rng(0)
    rows = []
    for n in range(number):
        values = SPACE.at(dice.random(3).tolist(), {})
        rows += [{"arm": arm, "number": n, "state": "complete", "value": score(arm, values), **values} for arm in arms]
    return pd.DataFrame(rows)


def test_a_row_is_one_configuration_under_every_arm():
    trials = trials_of(lambda arm, values: len(arm) * values["cost.l1"])
    table = paired_table(manifest_of(), trials.sample(frac=1.0, random_state=0))
    assert list(table["number"]) == list(range(30))
    assert list(table.columns) == [
        "number",
        *SPACE.distributions,
        *(f"score.{arm}" for arm in ARMS),
        "difference.aligned",
        "difference.misaligned",
    ]
    np.testing.assert_allclose(table["difference.aligned"], 4 * table["cost.l1"])
    assert (table["depth"].isna() == (table["model"] == "a")).all()


def test_a_trial_that_did_not_finish_leaves_a_gap_and_no_more():
    trials = trials_of(lambda arm, values: values["cost.l1"])
    trials.loc[(trials["arm"] == "aligned") & (trials["number"] == 3), "state"] = "failed"
    table = paired_table(manifest_of(), trials)
    assert table["score.aligned"].isna().sum() == table["difference.aligned"].isna().sum() == 1
    assert table["difference.misaligned"].notna().all()
    summary = paired_summary(manifest_of(), table)
    assert summary[(summary["arm"] == "aligned") & (summary["field"] == "")]["configurations"].item() == 29


def test_the_summary_finds_where_an_arm_is_better():
    trials = trials_of(lambda arm, values: 0.1 * (arm == "aligned") * (values["cost.l1"] - 0.5))
    summary = paired_summary(manifest_of(), paired_table(manifest_of(), trials)).set_index(["arm", "field", "part"])
    small, _, large = (summary.loc[("aligned", "cost.l1", part)] for part in (1, 2, 3))
    assert small["configurations"] == large["configurations"] == 10
    assert small["to"] < large["from"]
    assert small["high"] < 0 < large["low"]
    assert small["low"] <= small["difference"] <= small["high"]
    assert summary.loc[("misaligned", "cost.l1", 1)]["difference"] == 0
    assert ("aligned", "model", 1) not in summary.index
    of_depth = summary.loc[("aligned", "depth")]["configurations"].sum()
    assert 0 < of_depth < 30
    assert math.isnan(summary.loc[("aligned", "", 1)]["from"])


@pytest.mark.parametrize("count", [1, 2])
def test_few_configurations_have_a_difference_without_an_interval(count):
    trials = trials_of(lambda arm, values: len(arm), number=count)
    summary = paired_summary(manifest_of(), paired_table(manifest_of(), trials))
    assert summary["low"].isna().sum() >= 2 * (count == 1)
    assert set(summary["difference"]) <= {4.0, 7.0}


def test_without_mse_the_first_arm_is_the_baseline(tmp_path):
    arms = ("misaligned", "aligned")
    trials = trials_of(lambda arm, values: len(arm), arms=arms)
    first, second = write_paired(manifest_of(arms), trials, tmp_path)
    assert (first.name, second.name) == ("paired.csv", "paired_summary.csv")
    assert (pd.read_csv(first)["difference.aligned"] == -3).all()
    assert set(pd.read_csv(second)["arm"]) == {"aligned"}


@pytest.mark.parametrize("sampler", ["random", "qmc", "grid"])
def test_paired_arms_are_given_the_same_points_however_they_score(tmp_path, sampler):
    studies = open_studies(
        tmp_path / "journal",
        sweep="demo",
        sweep_id="1",
        arms=ARMS,
        space=SPACE,
        template={"cost.l1": 0.3},
        config=SearchConfig(trials=8, sampler=sampler, paired=True),
        metrics={"score": 1},
    )
    points = {}
    for worth, (arm, study) in enumerate(studies.items()):
        points[arm] = []
        for number in range(8):
            points[arm].append(study.ask().values)
            study.complete(number, float(worth * number))
    assert points["mse"] == points["aligned"] == points["misaligned"]
    assert len({str(values) for values in points["mse"]}) == 8


@pytest.mark.parametrize("sampler", ["tpe", "cmaes", "gp"])
def test_samplers_that_learn_are_refused(sampler):
    with pytest.raises(ConfigurationError, match=r"search\.sampler: expected one of random, qmc, grid"):
        SearchConfig(sampler=sampler, paired=True)


def test_the_figures_show_every_configuration_and_the_means_of_the_summary():
    manifest = manifest_of()
    trials = trials_of(lambda arm, values: 0.1 * len(arm) * values["cost.l1"])
    table = paired_table(manifest, trials)
    summary = paired_summary(manifest, table).set_index(["arm", "field"])
    drawn = {figure.layout["xaxis"]["title"]["text"]: figure for figure in paired_figures(manifest, trials)}
    assert set(drawn) == {"cost.l1", "depth"}
    points, means, *_ = drawn["cost.l1"].traces
    np.testing.assert_allclose(points["x"], table["cost.l1"], rtol=1e-5)
    np.testing.assert_allclose(points["y"], table["difference.aligned"], rtol=1e-5)
    np.testing.assert_allclose(means["y"], summary.loc[("aligned", "cost.l1"), "difference"], rtol=1e-5)
    assert drawn["cost.l1"].layout["yaxis"]["title"]["text"] == "corr, less that of mse"
