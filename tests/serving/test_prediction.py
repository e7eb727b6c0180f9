"""From an MLflow run and a file to predictions: the same as in memory, and one line for whatever is wrong."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch

import alignray as ar
from alignray.checkpoint import Checkpoint
from alignray.configuration import to_plain
from alignray.data import Panel, datasets
from alignray.errors import DataError, SweepError
from alignray.serving import TrainedModel, load_model, predict_file, ranked
from alignray.serving.log import MODEL_TAG, _log_model, _register
from alignray.training import Members
from alignray.trial import ScoringConfig, TrialConfig

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred as AnyType"),  # MLflow's own, on import
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]
COST = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)


@pytest.fixture(scope="module")
def panel() -> Panel:
    panel = datasets.synthetic(num_eras=12, rows=30, num_features=5, seed=0)
    names = tuple(f"feature_{number}" for number in range(5))
    return replace(panel, schema=replace(panel.schema, features=names, factors=names))


@pytest.fixture(scope="module")
def frame(panel) -> pd.DataFrame:
    (shard,) = panel.shards
    frame = pd.DataFrame(shard.features, columns=list(panel.schema.features))
    eras = np.repeat(panel.eras, np.diff(shard.offsets))
    ids = shard.ids if shard.ids is not None else [f"n{row:04d}" for row in range(len(frame))]
    return frame.assign(era=eras, id=ids)


@pytest.fixture(scope="module")
def logged(panel, tmp_path_factory) -> SimpleNamespace:
    """A model of one member in an MLflow store, as `alignray run` logs it, beside a run that is no final one."""
    home = tmp_path_factory.mktemp("store")
    config = TrialConfig(cost=COST, scoring=ScoringConfig(cost=COST), members=1)
    members = Members(config.model, panel.num_features, config.member_seeds, torch.device("cpu"))
    record = {"config": to_plain(config), "schema": to_plain(panel.schema), "best_epoch": 1}
    Checkpoint(members.state(), record).save(home / "model.safetensors")
    uri = f"sqlite:///{home / 'mlflow.db'}"
    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("here", artifact_location=(home / "artifacts").as_uri())
    final, trial = client.create_run(experiment), client.create_run(experiment, tags={"alignray.kind": "trial"})
    model_uri = _log_model(SimpleNamespace(model=home / "model.safetensors"), final.info.run_id)
    client.set_tag(final.info.run_id, MODEL_TAG, model_uri)
    model = TrainedModel.load(home / "model.safetensors")
    return SimpleNamespace(
        uri=uri,
        client=client,
        run=final.info.run_id,
        trial=trial.info.run_id,
        model=model,
        model_uri=model_uri,
        home=home,
    )


@pytest.fixture
def predict(logged, tmp_path):
    """Predictions of a frame that is written to a file of some kind."""

    def predicted(frame: pd.DataFrame, *, suffix: str = ".parquet", decision: bool = False) -> pd.DataFrame:
        data = tmp_path / f"live{suffix}"
        frame.to_parquet(data) if suffix == ".parquet" else frame.to_csv(data, index=False)
        predict_file(logged.run, data, tmp_path / "out.csv", decision=decision, tracking_uri=logged.uri)
        assert not list(tmp_path.glob("*.partial"))
        return pd.read_csv(tmp_path / "out.csv", dtype={"id": str})

    return predicted


def test_predictions_reproduce_the_scores_of_the_sweep(logged, panel, frame, predict):
    scores = logged.model.score(panel, range(panel.num_eras))
    written = predict(frame)["prediction"].to_numpy()
    assert 0 < written.min() < written.max() < 1
    batch = panel.batch(range(panel.num_eras))
    p = torch.zeros(batch.present.shape, dtype=torch.float64)
    p[batch.present] = torch.from_numpy(written)
    corr = ar.metrics.numerai_corr(p, batch.target.double(), mask=batch.mask)
    np.testing.assert_allclose(corr, scores.series["corr"][0], rtol=1e-9, atol=1e-12)


def test_decisions_reproduce_the_scores_of_the_sweep(logged, panel, frame, predict):
    scores = logged.model.score(panel, range(panel.num_eras))
    batch = panel.batch(range(panel.num_eras))
    q = torch.zeros(batch.present.shape, dtype=torch.float64)
    q[batch.present] = torch.from_numpy(predict(frame, decision=True)["decision"].to_numpy())
    exposure = ar.metrics.exposure(q, batch.factors.double(), mask=batch.mask)
    np.testing.assert_allclose(exposure, scores.series["exposure"][0], rtol=1e-9)


def test_order_of_columns_and_rows_and_kind_of_file_do_not_matter(frame, predict):
    expected = predict(frame).set_index("id")["prediction"]
    shuffled = frame.iloc[:, ::-1].sample(frac=1, random_state=0)
    for suffix in (".parquet", ".csv"):
        got = predict(shuffled, suffix=suffix).set_index("id")["prediction"]
        pd.testing.assert_series_equal(got.sort_index(), expected.sort_index())


def test_ids_that_come_again_in_other_eras_are_told_apart_by_era(frame, predict):
    named = frame.assign(id=frame.groupby("era").cumcount().astype(str))
    written = predict(named)
    assert list(written.columns) == ["era", "id", "prediction"]
    assert not written.duplicated(["era", "id"]).any()
    assert list(predict(frame).columns) == ["id", "prediction"]


def test_one_row_an_era_and_equal_predictions_are_ranked_in_the_middle():
    eras = pd.Series(list("aabbbc"))
    values = pd.Series([1.0, 1.0, 0.0, 5.0, 2.0, 9.0])
    assert ranked(values, eras).tolist() == pytest.approx([0.5, 0.5, 1 / 6, 5 / 6, 0.5, 0.5])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda frame: frame.drop(columns="feature_2"), "no column matches features='feature_2'"),
        (lambda frame: frame.drop(columns="era"), "no column 'era'"),
        (lambda frame: frame.drop(columns="id"), "no column 'id'; predictions are written beside"),
        (lambda frame: frame.assign(id="twice"), "column 'id' holds 'twice' twice in era"),
        (lambda frame: frame.assign(era=[None, *frame["era"][1:]]), "has no era in row 0"),
        (lambda frame: frame.assign(feature_1="high"), "column 'feature_1' is .*string, expected integers or floats"),
        (
            lambda frame: frame.assign(feature_1=np.int8(7)),
            "column 'feature_1' holds 7 in era .* expected codes 0 to 4",
        ),
        (lambda frame: frame.assign(feature_1=frame["feature_1"] * 1.0), "holds the codes 0 to 4 as floats; cast"),
        (lambda frame: frame.assign(feature_1=np.inf), "column 'feature_1' holds inf in era"),
        (lambda frame: frame.iloc[:0], "no rows"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_in_one_line(frame, predict, tmp_path, change, message):
    with pytest.raises(DataError, match=message) as error:
        predict(change(frame))
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out.csv").exists()


def test_runs_that_have_no_model_are_refused(logged, tmp_path):
    with pytest.raises(SweepError, match="run 'nowhere': not in the MLflow store"):
        load_model("nowhere", logged.uri)
    with pytest.raises(SweepError, match="is a trial, expected a final model's"):
        load_model(logged.trial, logged.uri)
    with pytest.raises(SweepError, match="no MLflow store at"):
        load_model(logged.run, f"sqlite:///{tmp_path / 'none.db'}")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(DataError, match="no folder"):
        predict_file(logged.run, "live.csv", tmp_path / "none" / "out.csv", tracking_uri=logged.uri)


def test_a_model_is_registered_once_with_its_arm_as_alias(logged):
    tags = {"alignray.objective": "mse", "alignray.sweep": "here"}
    for _ in range(2):
        _register(logged.client, "mine", logged.model_uri, logged.run, tags)
    (version,) = logged.client.search_model_versions("name = 'mine'")
    assert version.tags == tags
    assert logged.client.get_model_version_by_alias("mine", "mse").version == version.version
    loaded = mlflow.pyfunc.load_model("models:/mine@mse")
    assert loaded.input_example is not None
    assert loaded.predict(loaded.input_example)["prediction"].notna().all()


def _served(port: int, rows: pd.DataFrame, server: subprocess.Popen[bytes]) -> list[float]:
    body = json.dumps({"dataframe_split": rows.to_dict("split", index=False)}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, {"Content-Type": "application/json"})
    deadline = time.monotonic() + 180
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return [row["prediction"] for row in json.load(answer)["predictions"]]
        except (ConnectionError, urllib.error.URLError):
            assert server.poll() is None, "the server ended"
            assert time.monotonic() < deadline, "the server does not answer"
            time.sleep(0.5)


def test_the_model_is_served_over_http(logged, frame, panel, tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["mlflow", "models", "serve", "-m", logged.model_uri, "--env-manager", "local", "-h", "127.0.0.1"]
    bin_folder = Path(sys.executable).parent  # where mlflow looks for its server, once an environment is activated
    with (tmp_path / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command, "-p", str(port)],
            env={**os.environ, "MLFLOW_TRACKING_URI": logged.uri, "PATH": f"{bin_folder}:{os.environ['PATH']}"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        rows = frame[list(panel.schema.features)].astype("int32").head(40)
        np.testing.assert_allclose(_served(port, rows, server), logged.model.predict(rows), rtol=1e-6)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)
