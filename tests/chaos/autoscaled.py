"""A sweep on a cluster whose autoscaler starts machines of one core, of which one is preempted.

Runs in namespaces of its own: Ray's fake cloud begins with ``ray stop``, which ends every Ray that it sees.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from rig import until

MACHINES = 2


def main(name: str) -> None:
    import ray
    from ray.cluster_utils import AutoscalingCluster

    os.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    spot = {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MACHINES}
    cluster = AutoscalingCluster(head_resources={"CPU": 0}, worker_node_types={"spot": spot}, idle_timeout_minutes=0.2)
    cluster.start()
    command = [sys.executable, "-m", "alignray", "run", "hurt.py", "--name", name, "--address", "auto"]
    command += [f"--set=resources.max_concurrent={MACHINES}"]
    with Path("driver.log").open("w") as said:
        driver = subprocess.Popen(command, stdout=said, stderr=said)
    ray.init("auto", logging_level="ERROR")

    def workers() -> list[dict[str, object]]:
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    until(lambda: len(workers()) == MACHINES, "the machines", 180)
    logs = Path("runs") / name / "logs"
    until(lambda: any("epoch 7" in log.read_text() for log in logs.glob("*.log")), "a trial past a checkpoint", 180)
    print("grown", flush=True)
    lost = next(node for node in workers() if is_in_its_midst(node))
    os.kill(raylet_of(str(lost["NodeID"])), signal.SIGKILL)
    print("preempted", flush=True)
    until(lambda: all(node["NodeID"] != lost["NodeID"] for node in workers()), "the end of a machine", 60)
    until(lambda: len(workers()) == MACHINES, "a machine in its place", 180)
    print("replaced", flush=True)
    status = driver.wait(timeout=400)
    print("status", status, flush=True)
    until(lambda: not workers(), "the end of machines that nobody needs", 120)
    print("shrunk", flush=True)


def is_in_its_midst(node: dict[str, object]) -> bool:
    """Whether a trial runs on the machine."""
    from ray._private.state import actors

    return any(
        actor["Address"]["NodeID"] == node["NodeID"]
        for actor in actors().values()
        if "Trainable" in actor["ActorClassName"] and actor["State"] == "ALIVE"
    )


def raylet_of(node: str) -> int:
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[0].endswith("raylet/raylet") and re.search(node, " ".join(words)):
            return int(folder.name)
    raise AssertionError(f"no raylet of {node}")


if __name__ == "__main__":
    main(sys.argv[1])
