import math

import pytest
from mlflow import MlflowClient

from alignray.tracking import EXPERIMENT, RunEnd, RunMetrics, RunNote, RunStart
from alignray.tracking.writer import MlflowWriter

DIGEST = "ab" * 32


def dataset(context="training"):
    return {
        "sp500": {
            "digest": DIGEST,
            "source_type": "alignray.panel",
            "source": f'{{"sha256": "{DIGEST}"}}',
            "profile": '{"eras": 3}',
            "context": context,
        }
    }


def a_sweep(tmp_path):
    """What a sweep of one trial tells, in order."""
    note = tmp_path / "comparison.csv"
    note.write_text("arm,metric\n")
    start = RunStart(
        key="mse-0",
        tags={"alignray.kind": "trial", "mlflow.runName": "mse-0"},
        params={"cost.soft_l1.strength": 0.1, "model.width": 32, "model.family": "mlp", "top": None, "log": True},
        parent="demo",
        datasets=dataset(),
        time_ms=2_000,
    )
    return [
        RunStart(key="demo", tags={"alignray.kind": "sweep"}, params={"search.trials": 1}, time_ms=1_000),
        start,
        RunMetrics(key="mse-0", step=1, values={"val/corr": 0.1, "train/loss": math.nan}, time_ms=3_000),
        RunMetrics(key="mse-0", step=2, values={"val/corr": 0.2, "train/loss": math.inf}, time_ms=4_000),
        RunMetrics(key="mse-0", step=3, values={"val/corr": 0.2, "train/loss": -1.5}, time_ms=4_000),
        RunEnd(key="mse-0", status="FINISHED", tags={"alignray.state": "complete"}, time_ms=5_000),
        RunNote(key="demo", tags={"mlflow.note.content": "all of it"}, files=(str(note),), time_ms=6_000),
        RunEnd(key="demo", status="FINISHED", time_ms=7_000),
    ]


def everything(uri):
    """All that the store holds of the experiment, by run name, without the ids that MLflow makes up."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = client.search_runs([experiment.experiment_id])
    names = {run.info.run_id: run.info.run_name for run in runs}
    assert len(set(names.values())) == len(runs)
    held = {}
    for run in runs:
        tags = {name: value for name, value in run.data.tags.items() if name != "mlflow.user"}
        if "mlflow.parentRunId" in tags:
            tags["mlflow.parentRunId"] = names[tags["mlflow.parentRunId"]]
        held[run.info.run_name] = {
            "status": run.info.status,
            "times": (run.info.start_time, run.info.end_time),
            "tags": tags,
            "params": run.data.params,
            "metrics": {
                name: [(m.step, m.timestamp, repr(m.value)) for m in client.get_metric_history(run.info.run_id, name)]
                for name in run.data.metrics
            },
            "inputs": [
                (i.dataset.name, i.dataset.digest, i.dataset.source, i.dataset.profile, [t.value for t in i.tags])
                for i in run.inputs.dataset_inputs
            ],
            "files": [file.path for file in client.list_artifacts(run.info.run_id)],
        }
    return held


def writer(store, sweep="id-1"):
    return MlflowWriter(store, EXPERIMENT, sweep)


def test_events_become_runs(store, tmp_path):
    writer(store).write(a_sweep(tmp_path))
    held = everything(store)
    assert set(held) == {"demo", "mse-0"}
    trial = held["mse-0"]
    assert (trial["status"], trial["times"]) == ("FINISHED", (2_000, 5_000))
    assert trial["tags"]["mlflow.parentRunId"] == "demo"
    assert trial["tags"]["alignray.kind"] == "trial"
    assert trial["tags"]["alignray.state"] == "complete"
    assert trial["params"] == {
        "cost.soft_l1.strength": "0.1",
        "model.width": "32",
        "model.family": "mlp",
        "top": "None",
        "log": "True",
    }
    assert trial["metrics"]["val/corr"] == [(1, 3_000, "0.1"), (2, 4_000, "0.2"), (3, 4_000, "0.2")]
    assert [step for step, _, _ in trial["metrics"]["train/loss"]] == [1, 2, 3]
    assert trial["metrics"]["train/loss"][0][2] == "nan"
    assert trial["inputs"] == [("sp500", DIGEST[:36], f'{{"sha256": "{DIGEST}"}}', '{"eras": 3}', ["training"])]
    sweep = held["demo"]
    assert (sweep["status"], sweep["times"]) == ("FINISHED", (1_000, 7_000))
    assert sweep["tags"]["mlflow.note.content"] == "all of it"
    assert sweep["files"] == ["comparison.csv"]
    assert "mlflow.parentRunId" not in sweep["tags"]


def test_the_same_events_twice_change_nothing(store, tmp_path):
    events = a_sweep(tmp_path)
    one = writer(store)
    one.write(events)
    first = everything(store)
    one.write(events)
    assert everything(store) == first
    writer(store).write(events)  # and by a writer that knows of nothing
    assert everything(store) == first


@pytest.mark.parametrize("cut", range(8))
def test_a_crash_after_any_event_leaves_no_trace_once_it_is_told_again(store, tmp_path, cut):
    events = a_sweep(tmp_path)
    writer(store).write(events[:cut])
    writer(store).write(events)
    held = everything(store)
    assert set(held) == {"demo", "mse-0"}
    assert held["mse-0"]["metrics"]["val/corr"] == [(1, 3_000, "0.1"), (2, 4_000, "0.2"), (3, 4_000, "0.2")]
    assert [step for step, _, _ in held["mse-0"]["metrics"]["train/loss"]] == [1, 2, 3]
    assert (held["mse-0"]["status"], held["demo"]["status"]) == ("FINISHED", "FINISHED")
    assert len(held["mse-0"]["inputs"]) == 1


def test_a_new_writer_finds_its_runs_again(store, tmp_path):
    first = writer(store)
    first.write(a_sweep(tmp_path))
    second = writer(store)
    assert second.runs == first.runs
    assert set(second.runs) == {"demo", "mse-0"}
    second.write([RunMetrics(key="mse-0", step=4, values={"val/corr": 0.4}, time_ms=9_000)])
    assert everything(store)["mse-0"]["metrics"]["val/corr"][-1] == (4, 9_000, "0.4")


def test_more_runs_than_mlflow_shows_on_a_page_are_found_again(store):
    first = writer(store)
    first._client.search_runs([first._experiment_id], max_results=1)
    first.write([RunStart(key=f"mse-{number}") for number in range(30)])
    pages = MlflowClient.search_runs
    small = pytest.MonkeyPatch()
    small.setattr(MlflowClient, "search_runs", lambda *a, **k: pages(*a, **{**k, "max_results": 7}))
    try:
        assert writer(store).runs == first.runs
    finally:
        small.undo()
    assert len(first.runs) == 30


def test_sweeps_of_the_same_name_keep_to_their_own_runs(store):
    one, other = writer(store, "id-1"), writer(store, "id-2")
    for each in (one, other):
        each.write([RunStart(key="demo"), RunStart(key="mse-0", parent="demo")])
    assert not set(one.runs.values()) & set(other.runs.values())
    client = MlflowClient(store)
    for each in (one, other):
        assert client.get_run(each.runs["mse-0"]).data.tags["mlflow.parentRunId"] == each.runs["demo"]
        assert writer(store, each._sweep_id).runs == each.runs


def test_a_run_goes_on_where_it_was_stopped(store):
    writer(store).write(
        [
            RunStart(key="mse-0", params={"a": 1}, time_ms=1_000),
            RunMetrics(key="mse-0", step=1, values={"x": 1.0}),
            RunEnd(key="mse-0", status="KILLED", time_ms=2_000),
        ]
    )
    again = writer(store)
    again.write([RunStart(key="mse-0", params={"a": 1}, time_ms=3_000)])
    run = MlflowClient(store).get_run(again.runs["mse-0"])
    assert (run.info.status, run.info.start_time) == ("RUNNING", 1_000)
    again.write(
        [
            RunMetrics(key="mse-0", step=2, values={"x": 2.0}),
            RunEnd(key="mse-0", status="FINISHED", time_ms=4_000),
        ]
    )
    held = everything(store)["mse-0"]
    assert (held["status"], held["times"]) == ("FINISHED", (1_000, 4_000))
    assert [step for step, _, _ in held["metrics"]["x"]] == [1, 2]


def test_metrics_are_written_in_few_requests_within_the_limits(store, monkeypatch):
    sizes = []
    log_batch = MlflowClient.log_batch

    def counted(self, run_id, metrics=(), params=(), tags=(), **rest):
        sizes.append((len(metrics), len(params), len(tags)))
        return log_batch(self, run_id, metrics=metrics, params=params, tags=tags, **rest)

    monkeypatch.setattr(MlflowClient, "log_batch", counted)
    params = {f"parameter.{number}": number for number in range(250)}
    epochs = [
        RunMetrics(key="mse-0", step=step, values={f"metric/{n}": step + n / 100 for n in range(25)}, time_ms=step)
        for step in range(1, 101)
    ]
    writer(store).write([RunStart(key="mse-0", params=params), *epochs, RunEnd(key="mse-0", status="FINISHED")])
    assert all(metrics <= 1_000 and params <= 100 and tags <= 100 for metrics, params, tags in sizes)
    assert sum(metrics for metrics, _, _ in sizes) == 2_500
    assert len(sizes) == 3 + 3  # not one request an epoch
    held = everything(store)["mse-0"]
    assert held["params"] == {name: str(value) for name, value in params.items()}
    assert len(held["metrics"]) == 25
    assert [step for step, _, _ in held["metrics"]["metric/7"]] == list(range(1, 101))
    assert held["metrics"]["metric/24"][-1] == (100, 100, "100.24")


def test_a_run_ends_after_its_metrics_were_written(store, monkeypatch):
    held = []
    set_terminated = MlflowClient.set_terminated

    def look_first(self, run_id, *args, **kwargs):
        held.append([m.step for m in self.get_metric_history(run_id, "x")])
        set_terminated(self, run_id, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "set_terminated", look_first)
    metrics = [RunMetrics(key="mse-0", step=step, values={"x": 1.0}) for step in (1, 2)]
    writer(store).write([RunStart(key="mse-0"), *metrics, RunEnd(key="mse-0", status="FINISHED")])
    assert held == [[1, 2]]


def test_metrics_of_several_runs_do_not_mix(store):
    interleaved = [
        RunMetrics(key=f"mse-{run}", step=step, values={"x": run + step / 10}, time_ms=step)
        for step in (1, 2)
        for run in (0, 1)
    ]
    one = writer(store)
    one.write([RunStart(key="mse-0"), RunStart(key="mse-1"), *interleaved])
    held = everything(store)
    for run in (0, 1):
        assert [value for _, _, value in held[f"mse-{run}"]["metrics"]["x"]] == [repr(run + 0.1), repr(run + 0.2)]


def test_the_experiment_opens_at_runs_and_not_at_chat_traces(store):
    writer(store)
    tags = MlflowClient(store).get_experiment_by_name(EXPERIMENT).tags
    assert tags["mlflow.experimentKind"] == "custom_model_development"
