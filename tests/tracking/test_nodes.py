import os
import time

import pytest
from stream import until

from alignray.tracking import SWEEP_KEY, RunEnd, RunStart, Tracker, nodes
from alignray.tracking.nodes import NodeSampler

GPUS = """#!/bin/sh
echo "0, 87, 1000, 80000"
echo "1, [N/A], 0, 80000"
"""


def test_a_sample_says_what_the_node_is_busy_with():
    sampler = NodeSampler()
    until(lambda: sum(number * number for number in range(50_000)) and time.process_time())
    time.sleep(0.1)
    values = sampler.sample()
    assert 0 <= values["cpu_utilization_percentage"] <= 100
    assert 0 < values["system_memory_usage_percentage"] < 100
    assert values["system_memory_usage_megabytes"] > 100
    assert values["disk_available_megabytes"] > 0


def test_gpus_are_among_it_where_there_are_some(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(GPUS)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    gpus = {name: value for name, value in NodeSampler().sample().items() if name.startswith("gpu")}
    assert gpus == {
        "gpu_0_utilization_percentage": 87,
        "gpu_0_memory_usage_megabytes": pytest.approx(1000 * 1.048576),
        "gpu_0_memory_usage_percentage": pytest.approx(1.25),
    }
    program.write_text("#!/bin/sh\nexit 9\n")
    assert not any(name.startswith("gpu") for name in NodeSampler().sample())


def test_a_sample_costs_next_to_nothing():
    sampler = NodeSampler()
    sampler._has_gpus = False
    started = time.process_time()
    for _ in range(100):
        sampler.sample()
    assert (time.process_time() - started) / 100 < 0.01 * nodes.SAMPLE_S / 10


def test_a_node_is_measured_while_the_sweep_runs(store, tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setattr(nodes, "SAMPLE_S", 0.02)
    tracker = Tracker(str(tmp_path / "spool"), store, "id-1", limit_bytes=10**9, node="here")
    time.sleep(0.2)
    assert tracker.backlog().size == 0  # there is no run yet
    tracker.log([RunStart(key=SWEEP_KEY)])
    client = MlflowClient(store)
    name = "system/here/system_memory_usage_percentage"
    until(lambda: tracker.run_ids() and client.get_metric_history(tracker.run_ids()[SWEEP_KEY], name))
    tracker.log([RunEnd(key=SWEEP_KEY, status="FINISHED")])
    time.sleep(0.2)
    until(lambda: tracker.backlog().size == 0)
    before = tracker._spool.confirmed
    time.sleep(0.2)
    assert tracker._spool.confirmed == before
    assert tracker.backlog().refused == 0
