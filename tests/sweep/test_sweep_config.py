import dataclasses
import json

import pandas as pd
import pytest

import alignray as ar
from alignray.configuration import from_plain, replace_at, set_from_text, set_from_texts, to_plain
from alignray.errors import ConfigurationError, DataError, InvalidArgumentError
from alignray.launch import find_sweep
from alignray.objectives import OBJECTIVES


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: ar.SchedulerConfig(name="mean"), r"scheduler\.name: .*asha, .*fifo, pbt, got 'mean'"),
        (lambda: ar.SchedulerConfig(grace_epochs=0), r"scheduler\.grace_epochs: .*at least 1, got 0"),
        (lambda: ar.SchedulerConfig(reduction=1), r"scheduler\.reduction: .*at least 2, got 1"),
        (lambda: ar.ResourceConfig(cpus_per_trial=0), r"resources\.cpus_per_trial: .*above 0, got 0"),
        (lambda: ar.ResourceConfig(cpus_per_trial=float("nan")), r"resources\.cpus_per_trial: .*got nan"),
        (lambda: ar.ResourceConfig(gpus_per_trial=-1), r"resources\.gpus_per_trial: .*at least 0, got -1"),
        (lambda: ar.ResourceConfig(max_concurrent=0), r"resources\.max_concurrent: .*at least 1, got 0"),
        (lambda: ar.ResourceConfig(max_failures=-1), r"resources\.max_failures: .*at least 0, got -1"),
        (lambda: ar.ResourceConfig(checkpoint_every=0), r"resources\.checkpoint_every: .*at least 1, got 0"),
        (lambda: ar.ResourceConfig(time_budget_s=0), r"resources\.time_budget_s: .*above 0, got 0"),
        (lambda: ar.ResourceConfig(gpu_hours=1), r"resources\.gpu_hours: .*on GPUs, got 1 with .*gpus_per_trial=0"),
        (lambda: ar.HoldoutConfig(eras=0), r"holdout\.eras: .*at least 1, got 0"),
        (lambda: ar.HoldoutConfig(eras=9, members=0), r"holdout\.members: .*at least 1, got 0"),
        (lambda: ar.HoldoutConfig(eras=9, level=1.0), r"holdout\.level: .*between 0 and 1, got 1"),
    ],
)
def test_parts_that_are_refused(make, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"arms": ("aligned", "median")}, r"arms: .*mse.*, got 'median'"),
        ({"arms": ()}, r"arms: .*at least one"),
        ({"arms": ("mse", "mse")}, r"arms: .*each once, got \['mse', 'mse'\]"),
        ({"holdout": ar.HoldoutConfig(eras=6, seed=0)}, r"holdout\.seed: .*another seed.*trial\.seed, got 0"),
        ({"space": ar.Space({"model.depht": ar.Int(1, 2)})}, r"space\.model\.depht: "),
    ],
)
def test_sweeps_that_are_refused(make_sweep, changes, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        make_sweep(**changes)


@pytest.mark.parametrize("make", [lambda: find_sweep("quickstart")])
def test_a_sweep_survives_the_way_through_json(make, sweep):
    for config in (make(), sweep):
        again = from_plain(ar.SweepConfig, json.loads(json.dumps(to_plain(config))))
        assert again == config
        assert to_plain(again) == to_plain(config)


def test_all_arms_are_compared_unless_some_are_named(sweep, make_sweep):
    assert sweep.arms == tuple(OBJECTIVES)
    assert make_sweep(arms=("mse",)).arms == ("mse",)


@pytest.mark.parametrize(
    ("path", "text", "expected"),
    [
        ("search.trials", "3", 3),
        ("trial.cost.soft_l1.strength", "0.25", 0.25),
        ("arms", '["mse", "aligned"]', ("mse", "aligned")),
        ("data.source", "panel.parquet", "panel.parquet"),
        ("resources.max_concurrent", "null", None),
        ("data.id", "null", None),
        ("trial.split.scheme", "rolling", "rolling"),
        ("space.cost.soft_l1.strength.low", "0.02", 0.02),
    ],
)
def test_any_field_is_set_by_its_path(sweep, path, text, expected):
    changed = set_from_text(sweep, path, text)
    plain = to_plain(changed)
    if path.startswith("space."):
        assert plain["space"]["cost.soft_l1.strength"]["low"] == expected
        return
    for part in path.split("."):
        plain = plain[part]
    assert plain == (list(expected) if isinstance(expected, tuple) else expected)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("serach.trials", "3"),
        ("search.trails", "3"),
        ("search.trials.more", "3"),
        ("trial.cost.soft_l2.strength", "0.1"),
        ("space.cost.soft_l1.strength.step", "0.1"),
        ("search.trials", "three"),
        ("search.trials", "1.5"),
        ("search.trials", "true"),
        ("search.trials", "null"),
        ("search.trials", "[1]"),
        ("trial.cost.soft_l1.strength", "much"),
        ("trial.cost.soft_l1.strength", "-1"),
        ("arms", "5"),
        ("arms", "[5]"),
        ("data", "panel.parquet"),
        ("space.cost.soft_l1.strength.log", "perhaps"),
        ("space.cost.soft_l1.strength.kind", "5"),
        ("space", "5"),
        ("", "5"),
        (".", "5"),
    ],
)
def test_a_setting_that_does_not_fit_is_refused_with_its_path(sweep, path, text):
    with pytest.raises(ConfigurationError) as caught:
        set_from_text(sweep, path, text)
    first = path.split(".")[0]
    assert first in str(caught.value)


@pytest.mark.parametrize(
    ("source", "error"),
    [("sp501", ConfigurationError), ("missing.parquet", DataError), ("none/at/all", DataError), ("empty", DataError)],
)
def test_a_source_that_is_not_there_is_named(source, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(error, match=source) as caught:
        ar.DataConfig(source=source).load()
    assert "\n" not in str(caught.value)


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """The names of a folder of shards and one of Numerai's files, in the folder where the sweep runs."""
    monkeypatch.chdir(tmp_path)
    panel = ar.datasets.synthetic(num_eras=6, rows=10, num_features=4, seed=0)
    ar.write_shards(panel, "sharded", eras_per_shard=4)
    ar.datasets.write_numerai_layout("numerai", num_eras=6, rows=10, num_features=4, seed=0)
    return panel


def test_a_folder_is_read_as_what_it_holds(folders):
    assert ar.DataConfig(source="sharded").load().digest == folders.digest
    both = ar.DataConfig(source="./numerai", feature_set="all", part=("train", "validation"))
    assert both.load().digest == folders.digest
    other = ar.DataConfig(source="numerai", target="target_cyrusd_60", factor_set="all").load()
    assert (other.num_eras, other.schema.target, other.num_factors) == (4, "target_cyrusd_60", 4)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"source": "sp500", "target": "y"}, r"data\.target: expected 'target', its default, .* is sp500, got 'y'"),
        (
            {"source": "sharded", "target": "y"},
            r"data\.target: .* a folder of shards, which settles its columns,",
        ),
        ({"source": "numerai", "features": ("x",)}, r"data\.features: .* a folder of Numerai's files, got \('x',\)"),
        ({"source": "a.parquet", "feature_set": "all"}, r"data\.feature_set: .* is a file, got 'all'"),
        ({"source": "numerai", "part": ("test",)}, "part: expected some of train, validation, live, got 'test'"),
    ],
)
def test_a_field_that_a_source_would_ignore_is_refused(folders, fields, complaint):
    with pytest.raises(InvalidArgumentError, match=complaint):
        ar.DataConfig(**fields).load()


def test_a_file_is_read_by_the_columns_that_are_named(tmp_path, panel):
    rows = [
        {"week": int(era), "y": float(shard.target[row]), "x_a": float(row), "x_b": float(row % 3), "f": 1.0 + row}
        for shard in panel.shards
        for era, start, stop in zip(shard.eras, shard.offsets[:-1], shard.offsets[1:], strict=True)
        for row in range(start, stop)
    ]
    pd.DataFrame(rows).to_parquet(tmp_path / "panel.parquet")
    config = ar.DataConfig(
        source=str(tmp_path / "panel.parquet"), era="week", target="y", features=("x_*",), factors=("f",)
    )
    loaded = config.load()
    assert loaded.num_eras == 24
    assert loaded.schema.features == ("x_a", "x_b")
    assert loaded.schema.factors == ("f",)


def test_a_paired_sweep_stops_no_trial(make_sweep):
    search = ar.SearchConfig(sampler="qmc", paired=True)
    with pytest.raises(ConfigurationError, match=r"scheduler\.name: expected fifo.*got 'asha'"):
        make_sweep(search=search)
    assert make_sweep(search=search, scheduler=ar.SchedulerConfig(name="fifo")).search.paired


def test_a_space_that_the_sampler_cannot_search_is_refused(make_sweep):
    with pytest.raises(ConfigurationError, match=r"search\.trials: expected at most 5.*got 8"):
        make_sweep(search=ar.SearchConfig(sampler="grid"))


def test_a_panel_too_short_for_the_folds_is_refused(sweep):
    split = sweep.split(24)
    assert (len(split.folds), len(split.holdout)) == (2, 6)
    with pytest.raises(InvalidArgumentError, match="num_eras=9"):
        sweep.split(9)


def test_changes_leave_the_rest_as_it_was(sweep):
    changed = replace_at(sweep, {"search.trials": 99})
    assert changed.search.trials == 99
    assert replace_at(changed, {"search.trials": sweep.search.trials}) == sweep


@pytest.mark.parametrize(
    ("resources", "slots"),
    [
        (ar.ResourceConfig(), 8),
        (ar.ResourceConfig(cpus_per_trial=0.5), 16),
        (ar.ResourceConfig(cpus_per_trial=3), 2),
        (ar.ResourceConfig(gpus_per_trial=0.25), 8),
        (ar.ResourceConfig(gpus_per_trial=1, workers_per_trial=2), 1),
        (ar.ResourceConfig(gpus_per_trial=4), 1),
        (ar.ResourceConfig(max_concurrent=3), 3),
    ],
)
def test_how_many_trials_fit_on_eight_cores_and_two_gpus(resources, slots):
    assert resources.slots({"CPU": 8.0, "GPU": 2.0}) == slots


def test_threads_are_whole_cores():
    assert [ar.ResourceConfig(cpus_per_trial=cpus).threads for cpus in (0.5, 1, 2.9)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("family", "complaint"),
    [
        ("nowhere_to_be_found:Net", r"model\.family: .*imported here, got 'nowhere_to_be_found:Net'"),
        ("torch.nn:NoSuchNet", r"model\.family: .*imported here, got 'torch\.nn:NoSuchNet'"),
        ("torch:zeros", r"model\.family: .*'torch:zeros' to build a module from \(config, 7\)"),
    ],
)
def test_a_network_of_ones_own_that_is_none_is_found_before_any_trial(make_sweep, family, complaint):
    own = replace_at(make_sweep(), {"trial.model.family": family})
    varied = make_sweep(space=ar.Space({"model.family": ar.Choice(("linear", family))}))
    for sweep in (own, varied):
        with pytest.raises(ConfigurationError, match=complaint):
            sweep.require_models(7)
    make_sweep(space=ar.Space({"model.family": ar.Choice(("linear", "mlp"))})).require_models(7)


@pytest.mark.parametrize("source", ["s3://key:secret@bucket/shards", "https://host/shards?token=secret"])
def test_a_password_in_the_data_s_address_is_refused_and_not_shown(source):
    with pytest.raises(ConfigurationError, match=r"data\.source: expected a URL without a password") as caught:
        ar.DataConfig(source=source)
    assert "secret" not in str(caught.value)
    assert ar.DataConfig(source="s3://bucket/shards?versionId=3").source.endswith("=3")


def test_the_spool_has_a_limit_above_nothing():
    with pytest.raises(ConfigurationError, match=r"resources\.spool_limit_mb"):
        ar.ResourceConfig(spool_limit_mb=0)


@pytest.mark.parametrize("turn", [1, -1])
def test_values_that_are_allowed_only_together_are_set_together(make_sweep, turn):
    asked = {"search.paired": "true", "search.sampler": "qmc", "scheduler.name": "fifo", "search.trials": "5"}
    changed = set_from_texts(make_sweep(), dict(list(asked.items())[::turn]))
    assert (changed.search.paired, changed.search.sampler, changed.search.trials) == (True, "qmc", 5)
    with pytest.raises(ConfigurationError, match=r"search\.trials: expected an integer, got 'five'"):
        set_from_texts(make_sweep(), {"scheduler.name": "fifo", "search.trials": "five"})


RATE = ar.Space({"training.optimiser.learning_rate": ar.Float(1e-3, 1e-1, log=True)})
PBT = {"scheduler": ar.SchedulerConfig(name="pbt"), "search": ar.SearchConfig(sampler="random"), "space": RATE}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"search": ar.SearchConfig()}, r"search\.sampler: expected one of random, qmc, grid.*got 'tpe'"),
        (
            {"resources": ar.ResourceConfig(workers_per_trial=2)},
            r"workers_per_trial: expected 1, as scheduler\.name is",
        ),
        ({"search": ar.SearchConfig(sampler="random", paired=True)}, r"scheduler\.name: expected fifo"),
        (
            {"scheduler": ar.SchedulerConfig(name="pbt", perturb_every=20)},
            r"perturb_every: expected fewer .* 20 of trial",
        ),
        ({"space": ar.Space({"members": ar.Int(1, 3)})}, r"space: expected a Float of one of training\..*got members"),
        (
            {"space": ar.Space({**RATE.distributions, "training.patience": ar.Int(1, 3)})},
            r"space: expected no training\.patience, as scheduler\.name is pbt",
        ),
    ],
)
def test_a_population_that_cannot_be_trained_is_refused(changes, complaint, make_sweep):
    with pytest.raises(ConfigurationError, match=complaint):
        make_sweep(**{**PBT, **changes})


def test_a_population_does_not_stop_early_and_keeps_its_size(make_sweep):
    sweep = make_sweep(**PBT)
    assert sweep.trial.training.patience < sweep.base.training.patience == sweep.trial.training.epochs
    assert make_sweep().base == make_sweep().trial
    with pytest.raises(ConfigurationError, match=r"trial\.changes: expected none"):
        make_sweep(**PBT, trial=dataclasses.replace(sweep.trial, changes=(ar.Change(epoch=1, values={}),)))
    smoke = sweep.smoke()
    assert (smoke.scheduler.perturb_every, smoke.search.trials) == (1, 2)


def test_what_a_population_perturbs(make_sweep):
    fields = {
        "cost.soft_l1.strength": ar.Float(0.01, 0.5, log=True),
        "cost.factor_penalty.strength": ar.Choice((0.1, 0.2)),
        "training.optimiser.weight_decay": ar.Float(0.0, 0.5),
        "training.sobolev": ar.Float(0.0, 0.5),
    }
    sweep = make_sweep(**{**PBT, "space": ar.Space(fields)})
    found = sweep.scheduler.perturbed(sweep.trial, sweep.space)
    assert list(found) == ["cost.soft_l1.strength", "training.optimiser.weight_decay"]
