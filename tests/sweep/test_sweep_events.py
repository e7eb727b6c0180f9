import pytest

from alignray.sweep import Manifest, sweep_start


@pytest.fixture
def manifest(sweep, panel):
    return Manifest.of("demo", sweep, panel, "sqlite:////tmp/mlflow.db")


def test_a_sweep_tells_its_budget_as_params(manifest):
    start = sweep_start(manifest)
    assert start.params["search.trials"] == manifest.config.search.trials
    assert "alignray.search.trials" not in start.tags


def test_an_extended_sweep_tells_its_budget_as_tags_for_its_params_are_kept(manifest):
    start = sweep_start(manifest.extended(30, 60.0))
    assert start.tags["alignray.search.trials"] == "30"
    assert start.tags["alignray.resources.time_budget_s"] == "60.0"
    assert not {"search.trials", "resources.time_budget_s"} & set(start.params)
