"""The three records of a finished sweep, its folder, its journal and MLflow, to the last number."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pandas as pd
import pytest
from small_sweep import environment

import alignray as ar
from alignray.serving import TrainedModel
from alignray.sweep import Manifest, load_finals, sweep_studies
from alignray.tracking import Spool
from alignray.trial import METRICS

pytestmark = pytest.mark.ray


def runs_of(demo):
    """MLflow's runs by name; each name is there once."""
    from mlflow import MlflowClient

    client = MlflowClient(demo.tracking_uri)
    found = client.search_runs(
        [experiment.experiment_id for experiment in client.search_experiments()], "tags.`alignray.sweep` = 'first'"
    )
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def histories_of(demo):
    """What trials and final models reported; what the nodes were busy with comes when it comes."""
    from mlflow import MlflowClient

    client = MlflowClient(demo.tracking_uri)
    return {
        name: {
            metric: [(m.step, m.value, m.timestamp) for m in client.get_metric_history(run.info.run_id, metric)]
            for metric in run.data.metrics
            if not metric.startswith("system/")
        }
        for name, run in runs_of(demo).items()
    }


@pytest.fixture(scope="module")
def manifest(demo):
    return Manifest.load(demo.folder)


@pytest.fixture(scope="module")
def comparison(demo):
    return pd.read_csv(demo.folder / "comparison.csv").set_index(["arm", "metric"])


def test_one_parent_and_every_other_run_its_child(demo):
    runs = runs_of(demo)
    kinds = [run.data.tags["alignray.kind"] for run in runs.values()]
    assert sorted(kinds) == ["final"] * 4 + ["sweep"] + ["trial"] * 12
    parent = runs["first"]
    assert "mlflow.parentRunId" not in parent.data.tags
    assert parent.info.status == "FINISHED"
    for name, run in runs.items():
        if name != "first":
            assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
            assert run.info.status == "FINISHED"
            assert run.data.tags["alignray.sweep"] == "first"


def test_the_parent_holds_the_configuration_and_the_result(demo, manifest):
    from mlflow import MlflowClient

    parent = runs_of(demo)["first"]
    assert parent.data.params["search.trials"] == "3"
    assert parent.data.params["trial.training.epochs"] == "4"
    assert parent.data.params["holdout.eras"] == str(manifest.config.holdout.eras)
    assert parent.data.tags["mlflow.runName"] == "first"
    files = {file.path for file in MlflowClient(demo.tracking_uri).list_artifacts(parent.info.run_id)}
    assert {"comparison.csv", "report.html", "manifest.json", "environment.json"} <= files
    assert parent.data.tags["alignray.command"].startswith("python -m alignray run quickstart")


def test_no_step_is_there_twice_and_none_is_missing(demo):
    for name, metrics in histories_of(demo).items():
        epochs = max((step for step, _, _ in metrics.get("train/loss", [])), default=0)
        for metric, history in metrics.items():
            steps = [step for step, _, _ in history]
            expected = [5] if metric.startswith("holdout/") else list(range(1, epochs + 1))
            assert steps == expected, (name, metric)


def test_params_are_the_whole_configuration_flattened(demo, manifest):
    from alignray.configuration import flatten, replace_at, to_plain

    runs = runs_of(demo)
    for arm, study in sweep_studies(demo.folder, manifest).items():
        for row in study.rows():
            config = replace_at(manifest.config.trial, {"objective": arm, **row.values})
            expected = {name: str(value) for name, value in flatten(to_plain(config)).items()}
            assert runs[f"{arm}-{row.number}"].data.params == expected
            assert {"cost.soft_l1.strength", "model.width", "training.optimiser.learning_rate"} <= set(expected)
    for final in load_finals(demo.folder, manifest):
        expected = {name: str(value) for name, value in flatten(to_plain(final.config)).items()}
        assert runs[final.key].data.params == expected


def test_data_are_logged_as_inputs_with_their_digest_and_use(demo, manifest):
    for name, run in runs_of(demo).items():
        kind = run.data.tags["alignray.kind"]
        if kind == "sweep":
            continue
        ((dataset, context),) = [
            (given.dataset, [tag.value for tag in given.tags if tag.key == "mlflow.data.context"])
            for given in run.inputs.dataset_inputs
        ]
        assert dataset.name == "sp500", name
        assert context == ["training" if kind == "trial" else "holdout"]
        assert json.loads(dataset.source)["sha256"] == manifest.data["digest"]
        assert json.loads(dataset.profile)["eras"] == 1669


def test_a_final_run_says_after_which_trial_it_was_made(demo, manifest):
    runs = runs_of(demo)
    for arm, study in sweep_studies(demo.folder, manifest).items():
        best = study.best()
        final = runs[f"{arm}-final"]
        assert final.data.tags["alignray.trial"] == str(best.number)
        assert final.data.tags["alignray.objective"] == arm
        for path, value in best.values.items():
            assert final.data.params[path] == str(value)


def test_every_number_of_the_table_comes_out_of_the_stored_models_again(demo, manifest, comparison):
    """Value, interval, and difference to the baseline, from weights on disk and prices on disk alone."""
    panel = ar.datasets.sp500()
    sealed = range(panel.num_eras - manifest.config.holdout.eras, panel.num_eras)
    finals = {}
    for final in load_finals(demo.folder, manifest):
        model = TrainedModel.load(demo.folder / "final" / final.arm / "model.safetensors")
        assert model.config == final.config
        finals[final.arm] = replace(final, scores=model.score(panel, sealed))
        assert finals[final.arm].scores.eras == panel.eras[-len(sealed) :]
    for arm, final in finals.items():
        for metric in METRICS:
            row, again = comparison.loc[(arm, metric)], final.interval(metric, 0.95)
            near = {"rel": 1e-9, "abs": 1e-12}
            assert (row["value"], row["low"], row["high"]) == (
                pytest.approx(again.value, **near),
                pytest.approx(again.low, **near),
                pytest.approx(again.high, **near),
            )
            if arm == "mse":
                assert pd.isna(row["difference"])
                continue
            gap = final.interval(metric, 0.95, against=finals["mse"])
            assert (row["difference"], row["difference_low"], row["difference_high"]) == (
                pytest.approx(gap.value, **near),
                pytest.approx(gap.low, **near),
                pytest.approx(gap.high, **near),
            )
            assert gap.value == pytest.approx(row["value"] - comparison.loc[("mse", metric)]["value"], **near)


def test_the_table_says_what_it_rests_on(demo, comparison):
    assert set(comparison["looks"]) == {1}
    assert set(comparison["trials"]) == {3}
    assert set(comparison["failed"]) == {0}
    assert set(comparison["members"]) == {2}
    assert set(comparison["eras"]) == {260}
    assert set(comparison["level"]) == {0.95}


def test_mlflow_has_confirmed_everything(demo):
    spool = demo.folder / "spool"
    assert Spool(spool).size == 0
    assert not (spool / "refused.jsonl").exists()


def test_going_on_with_a_finished_sweep_repeats_nothing(demo):
    """No trial, no final model, no look at the holdout, no step: only the page and the parent's end are new."""

    def files():
        kept = [path for path in (demo.folder / "final").rglob("*") if path.is_file()]
        times = {path: path.stat().st_mtime_ns for path in kept}
        looks = json.loads((demo.folder / "manifest.json").read_text())["holdout_looks"]
        return times, looks, *((demo.folder / name).read_bytes() for name in ("optuna.journal", "comparison.csv"))

    def settled():
        return {
            name: (run.info.run_id, run.info.start_time, run.data.params, run.data.tags.get("alignray.model"))
            for name, run in runs_of(demo).items()
        }

    before = histories_of(demo), settled(), files()
    ends = {name: run.info.end_time for name, run in runs_of(demo).items() if name != "first"}
    done = demo.alignray("resume", "first")
    assert (done.returncode, done.stderr) == (0, "")
    assert (histories_of(demo), settled(), files()) == before
    assert {name: run.info.end_time for name, run in runs_of(demo).items() if name != "first"} == ends
    assert runs_of(demo)["first"].info.status == "FINISHED"
    assert done.stdout[done.stdout.index("Sweep first") :] == demo.output[demo.output.index("Sweep first") :]


def processes_with(mark):
    """The living processes that have a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def addresses_listening_on(port):
    """The local addresses, as the kernel writes them, of the sockets that listen on a port."""
    files = [file for file in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")) if file.exists()]
    sockets = [line.split() for file in files for line in file.read_text().splitlines()[1:]]
    local = [fields[1].split(":") for fields in sockets if fields[3] == "0A"]
    return {address for address, at in local if int(at, 16) == port}


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT], ids=lambda stop: stop.name)
def test_the_ui_answers_on_loopback_alone_and_leaves_no_process(demo, stop):
    mark = f"{stop.name}-{os.getpid()}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [sys.executable, "-m", "alignray", "ui", "first", "--no-open"],
        cwd=demo.home,
        env={**environment(), "PYTHONUNBUFFERED": "1", "ALIGNRAY_TEST_UI": mark},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    told = re.fullmatch(r"MLflow UI: (http://127\.0\.0\.1:(\d+)/)#/experiments/\d+/\S+\n", process.stdout.readline())
    assert "alignray.sweep" in unquote(told[0])
    assert process.stdout.readline() == "Ctrl-C stops it.\n"
    with urllib.request.urlopen(told[1], timeout=30) as answer:
        assert answer.status == 200
    assert addresses_listening_on(int(told[2])) == {"0100007F"}
    assert len(processes_with(mark)) > 1
    process.send_signal(stop)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out, err) == (0, "", "")
    assert processes_with(mark) == []
