"""A sweep on a cluster whose autoscaler starts machines of one core, of which one is preempted.

The cloud is Ray's own for tests, whose machines are processes. It takes Ray's usual ports: a network of its own.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from rig import trial_nodes, until

MACHINES = 2
_HEAD = "ray.head.default"  # as the fake cloud calls it


def start_cluster() -> None:
    nothing = ("setup", "head_setup", "worker_setup", "initialization", "head_start_ray", "worker_start_ray")
    config = {
        "cluster_name": "autoscaled",
        "max_workers": MACHINES,
        "idle_timeout_minutes": 0.2,
        "upscaling_speed": 1.0,
        "provider": {
            "type": "fake_multinode",
            "use_node_id_as_ip": True,
            "disable_node_updaters": True,
            "disable_launch_config_check": True,
        },
        "available_node_types": {
            _HEAD: {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
            "spot": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MACHINES},
        },
        "head_node_type": _HEAD,
        "auth": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in nothing},
    }
    Path("cluster.json").write_text(json.dumps(config))
    started = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "0"}
    command = [Path(sys.executable).with_name("ray"), "start", "--head", "--num-cpus=0"]
    subprocess.run([*command, "--autoscaling-config=cluster.json"], env=os.environ | started, check=True)


def main(name: str) -> None:
    import ray

    start_cluster()
    command = [sys.executable, "-m", "alignray", "run", "hurt.py", "--name", name, "--address", "auto"]
    command += [f"--set=resources.max_concurrent={MACHINES}"]
    with Path("driver.log").open("w") as said:
        driver = subprocess.Popen(command, stdout=said, stderr=said)
    ray.init("auto", logging_level="ERROR", log_to_driver=False)

    def workers() -> list[dict[str, object]]:
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]

    until(lambda: len(workers()) == MACHINES, "the machines", 180)
    logs = Path("runs") / name / "logs"
    until(lambda: any("epoch 7" in log.read_text() for log in logs.glob("*.log")), "a trial past a checkpoint", 180)
    print("grown", flush=True)
    lost = next(node for node in workers() if node["NodeID"] in trial_nodes())
    os.kill(raylet_of(str(lost["NodeID"])), signal.SIGKILL)
    print("preempted", flush=True)
    until(lambda: all(node["NodeID"] != lost["NodeID"] for node in workers()), "the end of a machine", 60)
    until(lambda: len(workers()) == MACHINES, "a machine in its place", 180)
    print("replaced", flush=True)
    status = driver.wait(timeout=400)
    print("status", status, flush=True)
    until(lambda: not workers(), "the end of machines that nobody needs", 120)
    print("shrunk", flush=True)


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
