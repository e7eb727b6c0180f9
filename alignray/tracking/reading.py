"""Looking at an MLflow store that sweeps were written to, and at nothing else."""

from __future__ import annotations

from pathlib import Path

from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from alignray.errors import SweepError
from alignray.tracking.uri import EXPERIMENT, redacted
from alignray.tracking.writer import SWEEP_ID


def open_store(uri: str) -> MlflowClient:
    """A client of a store that is there; MLflow itself would make a SQLite file that is missing.

    Raises:
        SweepError: The SQLite file is missing.
    """
    path = uri.removeprefix("sqlite:///")
    if path != uri and not Path(path).exists():
        raise SweepError(f"no MLflow store at {path}; run a sweep first, or name one with --tracking-uri")
    return MlflowClient(uri)


def experiment_id(client: MlflowClient) -> str:
    """The id of the experiment of the sweeps.

    Raises:
        SweepError: The store has none.
    """
    experiment = client.get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise SweepError(f"no experiment {EXPERIMENT!r} in the MLflow store; run a sweep first")
    return str(experiment.experiment_id)


def read_run(client: MlflowClient, run_id: str) -> Run:
    """A run.

    Raises:
        SweepError: The store has none of that id.
    """
    try:
        return client.get_run(run_id)
    except MlflowException as error:
        where = redacted(client.tracking_uri)
        raise SweepError(f"run {run_id!r}: not in the MLflow store {where}; see alignray ui for the ids") from error


def runs_of(client: MlflowClient, sweep_id: str) -> list[Run]:
    """Every run of a sweep."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id(client)], f"tags.`{SWEEP_ID}` = '{sweep_id}'", page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs
