"""A stream of events, recorded as it is told, and compared with what MLflow holds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from mlflow import MlflowClient

from alignray.tracking import EXPERIMENT, SWEEP_KEY, RunEnd, RunMetrics, RunStart


def until(condition: Callable[[], Any], timeout_s: float = 120.0) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.02)
    return found


def events(runs: int = 3, steps: int = 5, metrics: int = 4) -> list[Any]:
    """Of a whole sweep, in order."""
    keys = [f"mse-{run}" for run in range(runs)]
    return [
        RunStart(key=SWEEP_KEY, tags={"alignray.kind": "sweep"}, params={"search.trials": runs}),
        *(RunStart(key=key, parent=SWEEP_KEY, params={"model.width": 32}) for key in keys),
        *(
            RunMetrics(key=key, step=step, values=_values(key, step, metrics))
            for step in range(1, steps + 1)
            for key in keys
        ),
        *(RunEnd(key=key, status="FINISHED", tags={"alignray.state": "complete"}) for key in keys),
        RunEnd(key=SWEEP_KEY, status="FINISHED"),
    ]


def _values(key: str, step: int, metrics: int) -> dict[str, float]:
    """Where there are four or more, a NaN and an infinity among them."""
    values = {f"val/metric_{number}": step + number / 100 + len(key) for number in range(metrics)}
    if metrics >= 4:
        values |= {"val/metric_2": float("nan"), "val/metric_3": float("-inf")}
    return values


def told(given: Sequence[Any]) -> dict[str, dict[str, list[tuple[int, int, str]]]]:
    """What was told, as MLflow is to hold it: by run and metric, the steps with their times and values."""
    recorded: dict[str, dict[str, list[tuple[int, int, str]]]] = {}
    for event in given:
        run = recorded.setdefault(event.key, {})
        if isinstance(event, RunMetrics):
            for name, value in event.values.items():
                run.setdefault(name, []).append((event.step, event.time_ms, _as_kept(value)))
    return recorded


def held(uri: str) -> dict[str, dict[str, list[tuple[int, int, str]]]]:
    """What MLflow holds. No run may be there twice."""
    client = MlflowClient(uri)
    found: dict[str, dict[str, list[tuple[int, int, str]]]] = {}
    for run in client.search_runs([client.get_experiment_by_name(EXPERIMENT).experiment_id]):
        key = run.data.tags["alignray.key"]
        assert key not in found, f"two runs {key}"
        assert run.info.status == "FINISHED"
        found[key] = {
            name: [(m.step, m.timestamp, _as_kept(m.value)) for m in client.get_metric_history(run.info.run_id, name)]
            for name in run.data.metrics
        }
    return found


def _as_kept(value: float) -> str:
    """MLflow keeps an infinity as the largest number of its sign."""
    return repr(max(min(value, 1.7976931348623157e308), -1.7976931348623157e308)) if value == value else "nan"
