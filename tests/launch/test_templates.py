"""Every template that comes with alignray: what it is, and that its smallest size runs from end to end."""

from dataclasses import replace
from pathlib import Path

import pytest

from alignray.errors import SweepError
from alignray.launch import find_sweep, list_templates, new_template, run_sweep
from alignray.models import MODELS

TEMPLATES = list(list_templates())


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_is_called_as_its_file_and_says_in_a_line_what_it_is(name):
    assert find_sweep(name).template == name
    first = list_templates()[name].read_text().splitlines()[0]
    assert first.startswith('"""')
    assert first.endswith(".")


@pytest.mark.parametrize("name", TEMPLATES)
def test_smoke_shrinks_numbers_and_nothing_else(name):
    whole = find_sweep(name)
    small = whole.smoke()
    assert small.smoke() == small
    assert (small.arms, small.space, small.trial.cost) == (whole.arms, whole.space, whole.trial.cost)
    assert small.data.source == whole.data.source
    training = small.trial.training
    assert training.warmup_epochs + training.annealing.epochs < training.epochs, "no epoch is of the arm as it is"


def test_architectures_searches_every_family():
    assert set(find_sweep("architectures").space.distributions["model.family"].options) == set(MODELS)


def test_cost_strengths_gives_every_arm_the_same_points_and_stops_none():
    config = find_sweep("cost_strengths")
    assert config.search.paired
    assert config.scheduler.name == "fifo"


def test_tb200_decides_neutrally_and_is_scored_on_200_rows_at_each_end():
    trial = find_sweep("tb200").trial
    assert trial.cost.factor_neutral
    assert trial.scoring.top_bottom == 200


def test_a_file_of_ones_own_starts_as_a_template_with_its_comments(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    new_template(Path("own.py"), "tb200")
    assert find_sweep("own.py") == replace(find_sweep("tb200"), template="own")
    assert Path("own.py").read_text().count("#") == list_templates()["tb200"].read_text().count("#")
    with pytest.raises(SweepError, match="is there already"):
        new_template(Path("own.py"), "baselines")


@pytest.mark.ray
# Ray leaves the files of its processes to the interpreter's exit.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(
    "name",
    [name if name in ("quickstart", "tb200") else pytest.param(name, marks=pytest.mark.slow) for name in TEMPLATES],
)
def test_the_smallest_size_runs(name, store, tmp_path):
    config = find_sweep(name).smoke()
    result = run_sweep(config, name=name, storage=tmp_path, tracking_uri=store)
    assert result.trials["state"].isin(["complete", "pruned"]).all()
    assert len(result.trials) == config.search.trials * len(config.arms)
    comparison = result.comparison.set_index(["arm", "metric"])
    assert set(comparison.index.unique("arm")) == set(config.arms)
    assert comparison["value"].notna().all()
    if "mse" in config.arms and "aligned" in config.arms:
        by_arm = comparison["value"].unstack("arm")
        assert (by_arm["aligned"] != by_arm["mse"]).any(), "no epoch was of the arm as it is"
