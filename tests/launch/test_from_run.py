"""A run in MLflow becomes a template that makes it again, to the bit."""

import dataclasses

import pytest
from tiny_sweep import runs_of

from alignray.cli.main import status
from alignray.errors import SweepError
from alignray.launch import find_sweep, run_sweep, sweep_of_run

pytestmark = [
    pytest.mark.ray,
    # Ray leaves the files of its processes to the interpreter's exit.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def numbers(store, run):
    """Every metric of every epoch, but for what clocks say."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
        if not name.startswith("time/")
    }


@pytest.mark.parametrize("name", ["aligned-1", "mse-final"])
def test_the_file_makes_the_same_numbers(name, first, store, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    then = runs_of(store, "first")[name]
    again = f"again-{name}"
    assert status(["template", "from-run", then.info.run_id, f"{again}.py", "--tracking-uri", store]) == 0
    assert f"alignray run {again}.py" in capsys.readouterr().out
    run_sweep(find_sweep(f"{again}.py"), name=again, storage=tmp_path, tracking_uri=store)
    arm = name.split("-")[0]
    now = runs_of(store, again)
    assert set(now) == {again, f"{arm}-0", f"{arm}-final"}
    made = now[f"{arm}-final" if name.endswith("-final") else f"{arm}-0"]
    assert numbers(store, made) == numbers(store, then)
    assert made.data.params == then.data.params


def test_a_whole_sweep_comes_back_as_it_was_with_its_data_pinned(first, store):
    run = runs_of(store, "first")["first"]
    config, _ = sweep_of_run(run.info.run_id, store)
    assert config.data.digest == first.config.data.load().digest
    assert config.search.lag is not None  # as the cluster settled it: it decides the proposals
    search = dataclasses.replace(config.search, lag=first.config.search.lag)
    assert dataclasses.replace(config, data=first.config.data, search=search) == first.config


def test_runs_that_no_template_can_be_made_of(first, store, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(store)
    with pytest.raises(SweepError, match="'nosuch': not in the MLflow store"):
        sweep_of_run("nosuch", store)
    with pytest.raises(SweepError, match="no MLflow store at"):
        sweep_of_run("nosuch", f"sqlite:///{tmp_path}/none.db")
    assert not (tmp_path / "none.db").exists()
    stranger = client.create_run(client.create_experiment("another")).info.run_id
    with pytest.raises(SweepError, match="one that is none"):
        sweep_of_run(stranger, store)
    older = client.create_run("0", tags={"alignray.kind": "sweep", "alignray.sweep": "old"}).info.run_id
    with pytest.raises(SweepError, match=r"left no configuration.*runs/old/manifest\.json"):
        sweep_of_run(older, store)
