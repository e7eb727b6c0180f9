"""The quickstart sweep from end to end: what it prints, what it leaves behind, and that both agree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_sweep import ARMS, Demo

import alignray as ar
from alignray.configuration import from_plain, to_plain
from alignray.launch import find_sweep, open_result
from alignray.serving import TrainedModel
from alignray.sweep import Manifest, SweepConfig, load_finals, sweep_studies
from alignray.trial import METRICS, PARTS

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def manifest(demo: Demo) -> Manifest:
    return Manifest.load(demo.folder)


@pytest.fixture(scope="module")
def runs(demo: Demo) -> dict[str, Any]:
    """The MLflow runs of the sweep by their key."""
    from mlflow import MlflowClient

    client = MlflowClient(demo.tracking_uri)
    experiment = client.get_experiment_by_name("alignray")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], "tags.`alignray.sweep` = 'first'")
    return {run.data.tags["mlflow.runName"]: run for run in found}


def history(demo: Demo, run: Any, metric: str) -> list[tuple[int, float]]:
    from mlflow import MlflowClient

    return [(m.step, m.value) for m in MlflowClient(demo.tracking_uri).get_metric_history(run.info.run_id, metric)]


def test_prints_a_table_of_arms_and_metrics_with_intervals(demo: Demo) -> None:
    for word in (*ARMS, *METRICS, "report.html", "alignray ui first", "95%"):
        assert word in demo.output
    arms, differences = demo.output.split("Differences to mse")
    cells = re.findall(r"-?[\d.e+]+ \[-?[\d.e+–]+, -?[\d.e+–]+\]", arms)
    assert len(cells) == 2 * len(ARMS) * len(METRICS)  # on the holdout and on the validation eras
    tests = re.findall(r"p [\d.e-]+, [\d.e-]+ by Holm", differences)
    assert len(tests) == (len(ARMS) - 1) * (len(METRICS) - 1)  # no single era has a Sharpe ratio
    verdicts = re.findall(r"^\w+ (?:is|may be|and) .*mse.* by decision_corr on the holdout", differences, re.MULTILINE)
    assert len(verdicts) == 3


def test_arms_get_equal_trials_and_the_same_initial_points(demo: Demo, manifest: Manifest) -> None:
    studies = sweep_studies(demo.folder, manifest)
    points = {arm: [dict(row.values) for row in study.rows()] for arm, study in studies.items()}
    assert {arm: len(rows) for arm, rows in points.items()} == dict.fromkeys(ARMS, 3)
    assert all(rows == points["aligned"] for rows in points.values())
    assert points["aligned"][0]["cost.soft_l1.strength"] == manifest.config.trial.cost.strengths["soft_l1.strength"]


def test_study_and_mlflow_agree_trial_by_trial(demo: Demo, manifest: Manifest, runs: dict[str, Any]) -> None:
    rows = [row for study in sweep_studies(demo.folder, manifest).values() for row in study.rows()]
    assert {row.state for row in rows} <= {"complete", "pruned"}
    assert len(runs) == 1 + len(rows) + len(ARMS)
    parent = runs["first"]
    assert parent.data.tags["alignray.kind"] == "sweep"
    for row in rows:
        run = runs[f"{row.arm}-{row.number}"]
        tags = run.data.tags
        assert tags["alignray.kind"] == "trial"
        assert tags["alignray.sweep"] == "first"
        assert tags["alignray.template"] == "quickstart"
        assert tags["alignray.objective"] == run.data.params["objective"] == row.arm
        assert tags["alignray.trial"] == str(row.number)
        assert tags["mlflow.parentRunId"] == parent.info.run_id
        assert tags["alignray.state"] == row.state
        assert run.info.status == "FINISHED"
        for path, value in row.values.items():
            assert run.data.params[path] == str(value)
        steps = history(demo, run, "val/decision_corr")
        assert [step for step, _ in steps] == list(range(1, row.epochs + 1))
        assert row.value == max(value for _, value in steps)
        for metric in (
            *("train/loss", "solver/residual_max", "solver/unconverged"),
            *("time/epoch_s", "time/solver_share", "time/loader_share", "time/scoring_share"),
        ):
            assert len(history(demo, run, metric)) == row.epochs
        assert run.data.metrics["solver/residual_max"] <= manifest.config.trial.solver.tol
        assert run.data.metrics["solver/unconverged"] == 0
        assert {f"val/{metric}" for metric in METRICS} <= set(run.data.metrics)
        assert {f"val/{metric}_std" for metric in METRICS} <= set(run.data.metrics)
        (dataset,) = run.inputs.dataset_inputs
        assert manifest.data["digest"].startswith(dataset.dataset.digest)


def test_asha_stopped_some(demo: Demo, manifest: Manifest) -> None:
    rows = [row for study in sweep_studies(demo.folder, manifest).values() for row in study.rows()]
    stopped = [row for row in rows if row.state == "pruned"]
    assert stopped
    assert all(row.epochs < manifest.config.trial.training.epochs for row in stopped)


def test_final_runs_hold_the_numbers_of_the_table(demo: Demo, runs: dict[str, Any]) -> None:
    comparison = pd.read_csv(demo.folder / "comparison.csv").set_index(["arm", "metric"])
    for arm in ARMS:
        run = runs[f"{arm}-final"]
        assert run.data.tags["alignray.kind"] == "final"
        for metric in METRICS:
            row = comparison.loc[(arm, metric)]
            assert run.data.metrics[f"holdout/{metric}"] == pytest.approx(row["value"], rel=1e-12)
            assert run.data.metrics[f"holdout/{metric}_low"] == pytest.approx(row["low"], rel=1e-12)
            assert run.data.metrics[f"holdout/{metric}_high"] == pytest.approx(row["high"], rel=1e-12)
            assert row["low"] <= row["value"] <= row["high"]


def test_numbers_recomputed_from_the_stored_models(demo: Demo, manifest: Manifest) -> None:
    comparison = pd.read_csv(demo.folder / "comparison.csv").set_index(["arm", "metric"])
    panel = ar.datasets.sp500()
    holdout = range(panel.num_eras - manifest.config.holdout.eras, panel.num_eras)
    for arm in ARMS:
        model = TrainedModel.load(demo.folder / "final" / arm / "model.safetensors")
        assert model.config.objective == arm
        scores = model.score(panel, holdout)
        for metric in METRICS:
            value = float(scores.by_member(metric).mean())
            assert value == pytest.approx(comparison.loc[(arm, metric)]["value"], rel=1e-9, abs=1e-12)


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType")  # MLflow's own, on import
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_mlflow_model_predicts_as_the_stored_one(
    demo: Demo, runs: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    monkeypatch.chdir(demo.home)
    mlflow.set_tracking_uri(demo.tracking_uri)
    panel = ar.datasets.sp500()
    shard = panel.shards[-1]
    rows = pd.DataFrame(np.asarray(shard.features[-40:]), columns=list(panel.schema.features))
    for arm in ARMS:
        loaded = mlflow.pyfunc.load_model(runs[f"{arm}-final"].data.tags["alignray.model"])
        stored = TrainedModel.load(demo.folder / "final" / arm / "model.safetensors")
        np.testing.assert_allclose(loaded.predict(rows)["prediction"], stored.predict(rows), rtol=1e-6)


def test_final_models_are_fresh_and_the_best_of_their_arm(demo: Demo, manifest: Manifest) -> None:
    studies = sweep_studies(demo.folder, manifest)
    for final in load_finals(demo.folder, manifest):
        best = studies[final.arm].best()
        assert best is not None
        plain = dict(best.values)
        cost = to_plain(final.config)["cost"]  # type: ignore[index, call-overload]
        assert cost["soft_l1"]["strength"] == plain["cost.soft_l1.strength"]  # type: ignore[index, call-overload]
        assert not set(final.config.member_seeds) & set(manifest.config.trial.member_seeds)


def test_manifest_is_enough_to_run_it_again(demo: Demo, manifest: Manifest) -> None:
    assert manifest.holdout_looks == dict.fromkeys(ARMS, 1)
    assert from_plain(SweepConfig, to_plain(manifest.config)) == manifest.config
    assert manifest.config.trial.training.epochs == 4
    assert manifest.config.space == find_sweep("quickstart").space
    assert manifest.data["digest"] == ar.datasets.sp500().digest
    assert manifest.versions["torch"]


def test_report_stands_alone_and_has_the_numbers(demo: Demo) -> None:
    page = (demo.folder / "report.html").read_text()
    body = re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL)
    assert not re.search(r"""(?:src|href)=["'](?:https?:)?//""", body)
    for value in pd.read_csv(demo.folder / "comparison.csv")["value"]:
        assert (f"{value:.3f}" if abs(value) < 10 else f"{value:.3g}") in body


def test_compare_prints_the_same_table(demo: Demo) -> None:
    page = demo.home / "page.html"
    done = demo.alignray("compare", "first", "--html", str(page))
    assert done.returncode == 0, done.stderr
    table = demo.output[demo.output.index("Sweep first") :]
    assert done.stdout.startswith(table.rstrip())
    assert page.read_text() == (demo.folder / "report.html").read_text()


def test_result_from_python(demo: Demo) -> None:
    result = open_result("first", storage=demo.home / "runs")
    assert len(result.trials) == 12
    assert set(result.comparison["arm"]) == set(ARMS)
    pd.testing.assert_frame_equal(
        result.comparison, pd.read_csv(demo.folder / "comparison.csv"), check_dtype=False, rtol=1e-12
    )


def test_doctor_finds_nothing_wrong(demo: Demo) -> None:
    done = demo.alignray("doctor")
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("ok ") == 5


def test_folder_holds_what_the_contract_names(demo: Demo) -> None:
    names = {path.name for path in demo.folder.iterdir()}
    assert {"manifest.json", "optuna.journal", "tune", "spool", "comparison.csv", "report.html"} <= names
    assert not list(demo.folder.rglob("*.partial"))
    assert not [path for path in (demo.folder / "final").rglob("*") if path.suffix in (".pkl", ".pt")]
    assert Path(demo.home / "mlflow.db").exists()


def test_time_is_accounted_for_by_part(demo: Demo) -> None:
    result = open_result("first", storage=demo.home / "runs")
    parts = result.trials[[f"seconds_{part}" for part in PARTS]]
    assert (parts >= 0).all(axis=None)
    np.testing.assert_allclose(parts.sum(axis=1), result.trials["seconds"])
    searched = result.trials.groupby("arm")["seconds"].sum() / 3600
    hours = result.comparison.groupby("arm")["core_hours"].first()
    assert (hours > searched.loc[hours.index]).all()
    assert (result.comparison["gpu_hours"] == 0).all()


def test_a_trial_tells_what_it_did(demo: Demo) -> None:
    result = open_result("first", storage=demo.home / "runs")
    epochs, state = result.trials.set_index(["arm", "number"]).loc[("mse", 0), ["epochs", "state"]]
    lines = [line[21:] for line in demo.alignray("logs", "first", "mse-0").stdout.splitlines()]
    assert re.fullmatch(r"started on \S+, process \d+, cpu", lines[0])
    assert [line.split(",")[0] for line in lines[1:-1]] == [f"epoch {number}" for number in range(1, epochs + 1)]
    assert lines[-1] == f"ended: {state}"
    assert "scored on 260 holdout eras" in demo.alignray("logs", "first", "mse-final").stdout
    refused = demo.alignray("logs", "first", "mse-99")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "no log of a trial 'mse-99'" in refused.stderr
