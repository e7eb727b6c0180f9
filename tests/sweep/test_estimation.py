"""What a sweep will cost: the arithmetic, on a demand that is given; tests/trial/test_demand.py measures real ones."""

from __future__ import annotations

from dataclasses import replace

import pytest

import alignray as ar
from alignray.configuration import replace_at
from alignray.data import datasets
from alignray.errors import SweepError
from alignray.sweep import estimate, require_gpus
from alignray.trial import Demand

ERAS = 60


@pytest.fixture
def panel():
    return datasets.synthetic(num_eras=ERAS, rows=20, num_features=5, seed=0)


@pytest.fixture
def asked(monkeypatch):
    """What is measured; an epoch of the first arm takes 3 s on the first fold and 6 s on the last, mse a third."""
    given = {}

    def measure(configs, panel, folds, **options):
        given.update(options, configs=configs, panel=panel, folds=folds)
        slow = {"aligned": 3.0, "mse": 1.0}
        fold_s = tuple((slow[config.objective], 2 * slow[config.objective]) for config in configs)
        return Demand(fold_s=fold_s, peak_bytes=2_000_000_000, total_bytes=80_000_000_000)

    monkeypatch.setattr("alignray.sweep.estimation.measure", measure)
    monkeypatch.setattr("alignray.sweep.estimation.devices", lambda: {"machine": "x", "cpus": 4, "gpus": ["H", "H"]})
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    return given


def sweep_of(sweep, **changes):
    """Ten epochs of two arms of five trials, of four members; the final models have eight."""
    trials = {"arms": ["aligned", "mse"], "search.trials": 5, "search.initial_points": 1}
    members = {"trial.training.epochs": 10, "trial.members": 4, "holdout.members": 8}
    return replace_at(sweep, {**trials, **members, **changes})


def test_hours_are_those_of_all_trials_and_final_models(sweep, panel, asked):
    """Of an arm: 5 trials on both folds, and a model of twice the members on the last; 10 epochs of each."""
    busy_s = 10 * (5 * (3 + 6) + 2 * 6) + 10 * (5 * (1 + 2) + 2 * 2)
    found = estimate(sweep_of(sweep), panel)
    assert found.hours == pytest.approx(busy_s / 3600)
    assert found.at_once == 4
    assert found.elapsed_s == pytest.approx(busy_s / 4)
    assert (asked["device"], asked["threads"]) == ("cpu", 1)
    on_gpus = estimate(sweep_of(sweep, **{"resources.gpus_per_trial": 0.2, "resources.cpus_per_trial": 0.5}), panel)
    assert on_gpus.hours == pytest.approx(0.2 * busy_s / 3600), "GPU-hours: of cores there are enough"
    assert on_gpus.at_once == 8
    assert asked["device"] == "cuda"
    assert found.machine.endswith(": 4 CPUs (x)")
    assert on_gpus.machine.endswith(": 4 CPUs (x), H")
    halves = estimate(sweep_of(sweep, **{"resources.cpus_per_trial": 0.5}), panel)
    assert halves.at_once == 8
    assert (halves.hours, halves.elapsed_s) == (found.hours, found.elapsed_s), "half a core each, and half as fast"
    two = estimate(sweep_of(sweep, **{"resources.workers_per_trial": 2}), panel)
    assert (two.hours, two.at_once) == (found.hours, 2)
    assert two.elapsed_s == found.elapsed_s


def test_the_holdout_is_not_measured_on(sweep, panel, asked):
    config = sweep_of(sweep)
    estimate(config, panel)
    assert asked["panel"].num_eras == ERAS - config.holdout.eras - config.trial.split.embargo
    assert asked["folds"] == config.split(ERAS).folds


def test_memory_is_asked_of_the_largest_points_too(sweep, panel, asked):
    space = ar.Space(
        {
            "cost.soft_l1.strength": ar.Float(0.01, 0.5, log=True),
            "model.family": ar.Choice(("linear", "mlp")),
            "model.width": ar.Choice((8, 64), when={"model.family": ("mlp",)}),
            "model.activation": ar.Choice(("relu", "silu")),
        }
    )
    estimate(replace(sweep_of(sweep), space=space), panel)
    assert [config.objective for config in asked["configs"]] == ["aligned", "mse"]
    linear, mlp = asked["larger"]
    assert linear.model.family == "linear"
    assert (mlp.model.family, mlp.model.width) == ("mlp", 64)


def test_gpus_that_are_not_there_are_told(sweep, panel, asked):
    with pytest.raises(SweepError, match=r"a trial needs 4 GPUs, and this machine has 2; .* --address"):
        estimate(sweep_of(sweep, **{"resources.gpus_per_trial": 2, "resources.workers_per_trial": 2}), panel)
    assert not asked
    require_gpus(ar.ResourceConfig(gpus_per_trial=2))
