"""Every scheduler in a real sweep: what it stops is pruned with its scores, and never taken for a finished trial."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mlflow import MlflowClient
from optuna.trial import TrialState

import alignray as ar
from alignray.data import Panel
from alignray.launch import audit, run_sweep, sweep_of_run
from alignray.sweep import Manifest, load_finals, ray_cluster, seal, sweep_studies
from alignray.trial import Trial

pytestmark = pytest.mark.ray

EPOCHS, TRIALS = 9, 8


def runs_of(store, sweep):
    """MLflow's runs by name."""
    client = MlflowClient(store)
    (experiment,) = client.search_experiments(filter_string="name = 'alignray'")
    found = client.search_runs([experiment.experiment_id], f"tags.`alignray.sweep` = '{sweep}'")
    return {run.info.run_name: run for run in found}


@pytest.fixture(scope="module")
def cluster():
    with ray_cluster(None):
        yield


@pytest.fixture
def panel(tmp_path):
    panel = ar.datasets.synthetic(num_eras=40, rows=40, num_features=6, seed=0)
    ar.write_shards(panel, tmp_path / "panel", eras_per_shard=20)
    return ar.open_shards(tmp_path / "panel")


@pytest.fixture
def scheduled(panel, make_sweep, tmp_path):
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02)
    return make_sweep(
        data=ar.DataConfig(source=str(tmp_path / "panel")),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="corr"),
            model=ar.ModelConfig(family="linear"),
            training=ar.TrainingConfig(epochs=EPOCHS, patience=EPOCHS),
            split=ar.SplitConfig(folds=1, embargo=2),
            members=1,
        ),
        space=ar.Space({"training.optimiser.learning_rate": ar.Float(1e-7, 1e-1, log=True)}),
        arms=("mse", "misaligned"),
        search=ar.SearchConfig(trials=TRIALS, initial_points=TRIALS),
        resources=ar.ResourceConfig(max_concurrent=2),
        holdout=ar.HoldoutConfig(eras=6, members=1),
    )


@pytest.mark.parametrize(
    "name", ["asha", *(pytest.param(n, marks=pytest.mark.slow) for n in ("hyperband", "median", "fifo"))]
)
def test_what_a_scheduler_stops_is_pruned(name, cluster, scheduled, tmp_path):
    sweep = replace(scheduled, scheduler=ar.SchedulerConfig(name=name, grace_epochs=2))
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = run_sweep(sweep, name="scheduled", storage=tmp_path / "runs", tracking_uri=store)

    states = set()
    studies = sweep_studies(result.folder, Manifest.load(result.folder))
    for study in studies.values():
        trials = study._study.get_trials()
        assert len(trials) == TRIALS
        for trial in trials:
            states.add(trial.state)
            steps = sorted(trial.intermediate_values)
            assert steps == list(range(1, steps[-1] + 1))
            assert (steps[-1] == EPOCHS) == (trial.state == TrialState.COMPLETE)
            assert steps[-1] >= 2
            if trial.state == TrialState.PRUNED:
                assert trial.value == trial.intermediate_values[steps[-1]]
    assert states == ({TrialState.COMPLETE} if name == "fifo" else {TrialState.COMPLETE, TrialState.PRUNED})
    assert set(result.comparison["arm"]) == {"mse", "misaligned"}


def afresh(config: ar.TrialConfig, searched: Panel, folds) -> tuple[Trial, list[float]]:
    """A trial that is trained from its start, and its best scores by epoch."""
    trial, best = Trial(config, searched, folds=folds), []
    while not trial.finished:
        trial.step()
        best.append(trial.best[trial.metric])
    return trial, best


def test_a_population_goes_on_from_the_states_of_its_best(cluster, scheduled, panel, tmp_path):
    space = {
        "cost.soft_l1.strength": ar.Float(0.01, 0.5, log=True),
        "training.optimiser.learning_rate": ar.Float(1e-5, 1e-1, log=True),
    }
    sweep = replace(
        scheduled,
        space=ar.Space(space),
        arms=("aligned",),
        search=ar.SearchConfig(trials=TRIALS, sampler="qmc"),
        scheduler=ar.SchedulerConfig(name="pbt", perturb_every=3),
        trial=replace(scheduled.trial, training=replace(scheduled.trial.training, patience=1)),
    )
    store = f"sqlite:///{tmp_path / 'mlflow.db'}"
    result = run_sweep(sweep, name="population", storage=tmp_path / "runs", tracking_uri=store)
    split = sweep.split(panel.num_eras)
    searched, _ = seal(panel, split.holdout, sweep.trial.split.embargo)

    study = sweep_studies(result.folder, Manifest.load(result.folder))["aligned"]
    rows, curves = study.rows(), study.curves()
    assert [(row.state, row.epochs) for row in rows] == [("complete", EPOCHS)] * TRIALS  # patience stops none
    takers = [row for row in rows if row.exploits]
    assert len({each.epoch for row in takers for each in row.exploits}) == 2
    for row in takers:
        config = study._proposal(row.number).config(sweep.base)
        assert [change.values for change in config.changes][-1] == row.exploits[-1].values
        _, best = afresh(config, searched, split.folds)
        since = row.exploits[-1].epoch
        assert [curves[row.number][epoch] for epoch in range(since + 1, EPOCHS + 1)] == best[since:]
        assert row.value == best[-1]

    (final,) = load_finals(result.folder, Manifest.load(result.folder))
    best = study.best()
    assert final.config.changes == (best.course.changes if best.course else ())
    trial, _ = afresh(final.config, searched, [split.folds[-1]])
    assert final.best_epoch == trial.best_epoch
    found = audit("population", storage=tmp_path / "runs")
    assert [line.key for line in found.lines if line.findings] == []
    table = result.trials.set_index("number")
    assert table.loc[[row.number for row in takers], "last.cost.soft_l1.strength"].tolist() == [
        row.last["cost.soft_l1.strength"] for row in takers
    ]

    for run, row in ((runs_of(store, "population")[f"aligned-{row.number}"], row) for row in takers):
        alone, about = sweep_of_run(run.info.run_id, store)
        assert "changed on the way" in about
        ours, theirs = alone.base, study._proposal(row.number).config(sweep.base)
        assert ours == theirs
    final_run = runs_of(store, "population")["aligned-final"]
    assert sweep_of_run(final_run.info.run_id, store)[0].base.changes == final.config.changes
