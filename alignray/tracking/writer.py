"""From events to MLflow's API, in batches, each safe to repeat."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType

from alignray import __version__
from alignray.tracking.errors import StoreError, is_refusal, one_line
from alignray.tracking.events import Event, NodeMetrics, RunEnd, RunMetrics, RunNote, RunStart
from alignray.tracking.fitting import (
    METRICS_A_REQUEST,
    PARAMS_A_REQUEST,
    TAGS_A_REQUEST,
    FittingValues,
    fitting_name,
    in_requests,
)
from alignray.tracking.store import make_store

_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}  # the UI opens at runs, not at chat traces
KEY, SWEEP_ID = "alignray.key", "alignray.sweep_id"
"""The tags by which a run is found again."""
_WRITTEN_BY = "alignray.version"


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

    Raises:
        StoreError: The experiment has been deleted.
    """

    def __init__(self, uri: str, experiment: str, sweep_id: str) -> None:
        make_store(uri)
        self._client = MlflowClient(uri)
        self._sweep_id = sweep_id
        known = self._client.get_experiment_by_name(experiment)
        if known is not None and known.lifecycle_stage == "deleted":
            raise StoreError(
                f"the experiment {experiment!r} has been deleted; restore it in MLflow, or remove it for good"
            )
        self._experiment_id = (
            known.experiment_id if known else self._client.create_experiment(experiment, tags=_EXPERIMENT_TAGS)
        )
        self.runs = self._find_runs()

    def write(self, events: Sequence[Event]) -> list[tuple[Event, str]]:
        """Apply events in order. Consecutive metrics of a run go in one request.

        Returns:
            What MLflow refuses for good, in the smallest parts, each with its reason; all the rest is written.

        Raises:
            Exception: MLflow is away, or takes nothing from us.
        """
        try:
            self._apply(events)
        except Exception as error:
            if not is_refusal(error):
                raise
            self.runs = self._find_runs()  # a run may have been deleted
            return self._sift(events)
        return []

    def require_writable(self) -> None:
        """Write something that changes nothing but the experiment's version.

        Raises:
            Exception: MLflow takes nothing from us.
        """
        self._client.set_experiment_tag(self._experiment_id, _WRITTEN_BY, __version__)

    def _sift(self, events: Sequence[Event]) -> list[tuple[Event, str]]:
        """Apply events by halves, and their parts, down to those that are refused by themselves."""
        try:
            self._apply(events)
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(events) > 1:
                middle = len(events) // 2
                return self._sift(events[:middle]) + self._sift(events[middle:])
            return self._set_aside(events[0], one_line(error))
        return []

    def _set_aside(self, event: Event, why: str) -> list[tuple[Event, str]]:
        """Apply the parts of a refused event that are not; the smallest that is refused is returned."""
        parts = event.parts() if event.key in self.runs or isinstance(event, RunStart) else (event,)
        refused = [each for part in parts if part != event for each in self._sift([part])]
        if event in parts:  # it is one of its own parts where it has a single value
            self.require_writable()  # or it is not the event that is refused
            refused.append((event, why))
        return refused

    def _apply(self, events: Sequence[Event]) -> None:
        metrics: dict[str, list[Metric]] = {}
        for event in events:
            if isinstance(event, RunMetrics | NodeMetrics):
                metrics.setdefault(event.key, []).extend(_metrics(event))
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
        tags = FittingValues.of_tags(event.tags)
        tagging = list(_requests_of_tags(tags))
        if event.key not in self.runs:
            its_own = {KEY: event.key, SWEEP_ID: self._sweep_id}
            if event.parent in self.runs:
                its_own["mlflow.parentRunId"] = self.runs[event.parent]
            run = self._client.create_run(
                self._experiment_id,
                start_time=event.time_ms,
                tags={tag.key: tag.value for some in tagging[:1] for tag in some} | its_own,
                run_name=event.tags.get("mlflow.runName", event.key),
            )
            self.runs[event.key] = run.info.run_id
            tagging = tagging[1:]
        else:
            self._client.update_run(self.runs[event.key], status="RUNNING")
        for request in tagging:
            self._client.log_batch(self._run(event.key), tags=request)
        self._store_texts(event.key, tags.long)
        params = FittingValues.of_params(event.params)
        self._store_texts(event.key, params.long)
        for some in in_requests([Param(name, value) for name, value in params.values.items()], PARAMS_A_REQUEST):
            self._client.log_batch(self._run(event.key), params=some)
        if event.datasets:
            inputs = [_dataset_input(name, dict(given)) for name, given in event.datasets.items()]
            self._client.log_inputs(self._run(event.key), inputs)

    def _annotate(self, event: RunNote) -> None:
        self._tag(event.key, event.tags)
        for path in event.files:
            self._client.log_artifact(self._run(event.key), path)

    def _end(self, event: RunEnd) -> None:
        self._tag(event.key, event.tags)
        self._client.set_terminated(self._run(event.key), event.status, end_time=event.time_ms)

    def _tag(self, key: str, given: Mapping[str, str]) -> None:
        tags = FittingValues.of_tags(given)
        self._store_texts(key, tags.long)
        for some in _requests_of_tags(tags):
            self._client.log_batch(self._run(key), tags=some)

    def _store_texts(self, key: str, texts: Mapping[str, str]) -> None:
        for path, text in texts.items():
            self._client.log_text(self._run(key), text, path)

    def _flush(self, key: str, metrics: Sequence[Metric]) -> None:
        for start in range(0, len(metrics), METRICS_A_REQUEST):  # whose names and numbers fit a request's bytes
            self._client.log_batch(self._run(key), metrics=metrics[start : start + METRICS_A_REQUEST])

    def _run(self, key: str) -> str:
        if key not in self.runs:
            raise LookupError(f"the run {key} is not there; it was deleted, or its start was refused")
        return self.runs[key]

    def _find_runs(self) -> dict[str, str]:
        runs: dict[str, str] = {}
        token: str | None = None
        while True:
            page = self._client.search_runs(
                [self._experiment_id],
                f"tags.`{SWEEP_ID}` = '{self._sweep_id}'",
                run_view_type=ViewType.ACTIVE_ONLY,
                page_token=token,
            )
            runs |= {run.data.tags[KEY]: run.info.run_id for run in page}
            token = page.token
            if not token:
                return runs


def _requests_of_tags(tags: FittingValues) -> Iterator[Sequence[RunTag]]:
    return in_requests([RunTag(name, value) for name, value in tags.values.items()], TAGS_A_REQUEST)


def _metrics(event: RunMetrics | NodeMetrics) -> list[Metric]:
    if isinstance(event, NodeMetrics):
        # Under the names that MLflow's page of system metrics knows; a step is a second.
        prefix, step = f"system/{event.node}/", event.time_ms // 1000
    else:
        prefix, step = "", event.step
    return [
        Metric(fitting_name(prefix + name), float(value), event.time_ms, step) for name, value in event.values.items()
    ]


def _dataset_input(name: str, description: Mapping[str, Any]) -> DatasetInput:
    dataset = Dataset(
        name=name,
        digest=description["digest"][:36],  # MLflow's limit; the whole digest is in the source
        source_type=description["source_type"],
        source=description["source"],
        profile=description["profile"],
    )
    return DatasetInput(dataset=dataset, tags=[InputTag("mlflow.data.context", description["context"])])
