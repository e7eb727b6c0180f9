"""What the nodes of a cluster are busy with, under the names that MLflow gives its system metrics."""

from __future__ import annotations

import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from alignray.tracking.events import SWEEP_KEY, Event, NodeMetrics

SAMPLE_S = 10.0
_GPU_FIELDS = "index,utilization.gpu,memory.used,memory.total"
_GPU_PATIENCE_S = 5.0
_MB = 1e6


class NodeSampler:
    """Measures the node that it runs on, from Linux's ``/proc`` and from ``nvidia-smi``, each where there is one."""

    def __init__(self) -> None:
        self._cpu = _cpu_ticks()
        self._has_gpus = shutil.which("nvidia-smi") is not None

    def sample(self) -> dict[str, float]:
        """CPU since the last sample, memory, disk and GPUs, in % and MB."""
        return {**self._cpu_share(), **_memory(), **_disk(), **(_gpus() if self._has_gpus else {})}

    def _cpu_share(self) -> dict[str, float]:
        before, self._cpu = self._cpu, _cpu_ticks()
        if before is None or self._cpu is None or self._cpu[1] == before[1]:
            return {}
        busy, total = self._cpu[0] - before[0], self._cpu[1] - before[1]
        return {"cpu_utilization_percentage": 100 * busy / total}


class NodeMonitor:
    """An actor that tells the tracker, every few seconds, what its node is busy with.

    Args:
        tracker: The tracker's handle.
        node: The node's name.
    """

    def __init__(self, tracker: Any, node: str) -> None:
        import ray

        def log(events: Sequence[Event]) -> None:
            ray.get(tracker.log.remote(events))

        self._thread = threading.Thread(target=report_node, args=(log, node), daemon=True)
        self._thread.start()


def report_node(log: Callable[[Sequence[Event]], None], node: str, wanted: Callable[[], bool] = lambda: True) -> None:
    """Log a sample of this node every ``SAMPLE_S`` seconds, for ever, where it is wanted."""
    sampler = NodeSampler()
    while True:
        time.sleep(SAMPLE_S)
        values = sampler.sample()
        if values and wanted():
            log([NodeMetrics(key=SWEEP_KEY, node=node, values=values)])


def start_monitors(tracker: Any, watched: dict[str, Any]) -> None:
    """Start a monitor on every node of the cluster that has none, but for the tracker's, which measures its own.

    Args:
        tracker: The tracker's handle.
        watched: The monitors by node id, added to: nodes come and go.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    for node in ray.nodes():
        identity = node["NodeID"]
        if node["Alive"] and identity != here and identity not in watched:
            there = NodeAffinitySchedulingStrategy(identity, soft=False)
            actor = ray.remote(num_cpus=0, max_restarts=-1, scheduling_strategy=there)(NodeMonitor)
            watched[identity] = actor.remote(tracker, f"{node['NodeManagerHostname']}-{identity[:6]}")


def _cpu_ticks() -> tuple[int, int] | None:
    """Busy and all ticks of the node's cores since it started."""
    try:
        ticks = [int(value) for value in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    except OSError:
        return None
    idle = ticks[3] + ticks[4]
    return sum(ticks) - idle, sum(ticks)


def _memory() -> dict[str, float]:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return {}
    kib = {name: int(value.split()[0]) for name, _, value in (line.partition(":") for line in lines)}
    used, total = kib["MemTotal"] - kib["MemAvailable"], kib["MemTotal"]
    return {
        "system_memory_usage_megabytes": used * 1024 / _MB,
        "system_memory_usage_percentage": 100 * used / total,
    }


def _disk() -> dict[str, float]:
    disk = shutil.disk_usage("/")
    return {"disk_usage_percentage": 100 * disk.used / disk.total, "disk_available_megabytes": disk.free / _MB}


def _gpus() -> dict[str, float]:
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={_GPU_FIELDS}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            check=True,
            timeout=_GPU_PATIENCE_S,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return {}
    values: dict[str, float] = {}
    for line in told.splitlines():
        try:
            index, busy, used, total = (float(value) for value in line.split(","))
        except ValueError:
            continue  # a GPU cut into instances does not say
        name = f"gpu_{index:.0f}"
        values[f"{name}_utilization_percentage"] = busy
        values[f"{name}_memory_usage_megabytes"] = used * 2**20 / _MB
        values[f"{name}_memory_usage_percentage"] = 100 * used / total
    return values
