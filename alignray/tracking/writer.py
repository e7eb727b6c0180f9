"""From events to MLflow's API, in batches, each safe to repeat."""

from __future__ import annotations

from collections.abc import Sequence

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag

from alignray.tracking.events import Event, RunEnd, RunMetrics, RunNote, RunStart
from alignray.tracking.store import make_store

_METRICS_A_REQUEST = 1_000  # MLflow's limits
_PARAMS_A_REQUEST = 100
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens at runs, not at chat traces
KEY, SWEEP_ID = "alignray.key", "alignray.sweep_id"
"""The tags by which a run is found again."""


class MlflowWriter:
    """Writes events to an MLflow store. Applying the same events again changes nothing.

    A run is found again by its tags, a metric by its key, step, time and value; so what a crash left between MLflow and
    the spool is applied once more without harm.

    Args:
        uri: The store.
        experiment: The experiment's name, created if need be.
        sweep_id: What tells the runs of this sweep from those of others.

    Attributes:
        runs: The ids of the sweep's runs, by key.
    """

    def __init__(self, uri: str, experiment: str, sweep_id: str) -> None:
        make_store(uri)
        self._client = MlflowClient(uri)
        self._sweep_id = sweep_id
        known = self._client.get_experiment_by_name(experiment)
        self._experiment_id = (
            known.experiment_id if known else self._client.create_experiment(experiment, tags=_EXPERIMENT_TAGS)
        )
        self.runs = self._find_runs()

    def write(self, events: Sequence[Event]) -> None:
        """Apply events in order. Consecutive metrics of a run go in one request."""
        metrics: dict[str, list[Metric]] = {}
        for event in events:
            if isinstance(event, RunMetrics):
                metrics.setdefault(event.key, []).extend(
                    Metric(name, value, event.time_ms, event.step) for name, value in event.values.items()
                )
                continue
            self._flush(event.key, metrics.pop(event.key, []))
            if isinstance(event, RunStart):
                self._start(event)
            elif isinstance(event, RunNote):
                self._annotate(event)
            elif isinstance(event, RunEnd):
                self._end(event)
        for key, values in metrics.items():
            self._flush(key, values)

    def _start(self, event: RunStart) -> None:
        run_id = self.runs.get(event.key)
        if run_id is None:
            tags = {**event.tags, KEY: event.key, SWEEP_ID: self._sweep_id}
            if event.parent is not None:
                tags["mlflow.parentRunId"] = self.runs[event.parent]
            run = self._client.create_run(
                self._experiment_id, start_time=event.time_ms, tags=tags, run_name=tags.get("mlflow.runName", event.key)
            )
            run_id = self.runs[event.key] = run.info.run_id
        else:
            self._client.update_run(run_id, status="RUNNING")
        params = [Param(name, str(value)) for name, value in event.params.items()]
        for start in range(0, len(params), _PARAMS_A_REQUEST):
            self._client.log_batch(run_id, params=params[start : start + _PARAMS_A_REQUEST])
        if event.datasets:
            self._client.log_inputs(run_id, [_dataset_input(name, dict(d)) for name, d in event.datasets.items()])

    def _annotate(self, event: RunNote) -> None:
        run_id = self.runs[event.key]
        if event.tags:
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in event.tags.items()])
        for path in event.files:
            self._client.log_artifact(run_id, path)

    def _end(self, event: RunEnd) -> None:
        run_id = self.runs[event.key]
        if event.tags:
            self._client.log_batch(run_id, tags=[RunTag(name, value) for name, value in event.tags.items()])
        self._client.set_terminated(run_id, event.status, end_time=event.time_ms)

    def _flush(self, key: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), _METRICS_A_REQUEST):
            self._client.log_batch(self.runs[key], metrics=metrics[start : start + _METRICS_A_REQUEST])

    def _find_runs(self) -> dict[str, str]:
        runs: dict[str, str] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id], f"tags.`{SWEEP_ID}` = '{self._sweep_id}'", page_token=token
            )
            runs |= {run.data.tags[KEY]: run.info.run_id for run in page}
            token = page.token
            if not token:
                return runs


def _dataset_input(name: str, description: dict[str, str]) -> DatasetInput:
    dataset = Dataset(
        name=name,
        digest=description["digest"][:36],  # MLflow's limit; the whole digest is in the source
        source_type=description["source_type"],
        source=description["source"],
        profile=description["profile"],
    )
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", description["context"])])
