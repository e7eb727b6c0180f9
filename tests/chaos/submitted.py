"""A Ray cluster that `alignray cluster up` starts on free ports, with a home of its own, and nodes that join it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from ports import free_port, free_ports
from rig import ROOT, Driver, Rig, until

RAY = Path(sys.executable).with_name("ray")


@dataclass
class SubmittedRig(Rig):
    """A rig whose sweeps run in a cluster of its own.

    Attributes:
        joinable: Whether other machines can join, which a cluster of `local` does not let them.
        nodes: Those that did.
    """

    joinable: bool = True
    nodes: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.port, self.dashboard = free_ports(2)
        self.temp = Path(tempfile.mkdtemp(prefix="ray-"))  # Ray's sockets take no long paths
        self.kind = self.home / "mine"
        self.kind.mkdir()
        options = yaml.safe_load((ROOT / "cluster" / "local" / "ray-start.yaml").read_text())
        options |= {"port": self.port, "dashboard-port": self.dashboard, "temp-dir": str(self.temp), "num-cpus": 1}
        options |= {"dashboard-agent-listen-port": 0, "ray-client-server-port": free_port()}
        options |= {"min-worker-port": 0, "max-worker-port": 0}
        (self.kind / "ray-start.yaml").write_text(yaml.safe_dump(options))

    @property
    def token_file(self) -> Path:
        return self.home / ".ray" / "auth_token"

    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in super().environment().items() if not name.startswith("RAY_")}
        joinable = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1"} if self.joinable else {}
        return {**kept, **joinable, "HOME": str(self.home), "OMP_NUM_THREADS": "1"}

    def cluster(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("cluster", verb, str(self.kind), *arguments)

    def submit(self, *arguments: str) -> Driver:
        return self.start("cluster", "submit", str(self.kind), *arguments)

    def add_node(self) -> subprocess.Popen[bytes]:
        """Another machine of one core joins, as if it were one."""
        command = [str(RAY), "start", f"--address=127.0.0.1:{self.port}", "--num-cpus=1", "--block"]
        command += ["--dashboard-agent-listen-port=0", "--min-worker-port=0", "--max-worker-port=0"]
        log = self.home / f"node{len(self.nodes)}.log"
        with log.open("w") as said:
            node = subprocess.Popen(
                command,
                env={**self.environment(), "RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"},
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self.nodes.append(node)
        until(lambda: "Ray runtime started" in log.read_text(), "another machine", 240.0)
        return node

    def end(self) -> None:
        self.cluster("down")
        for node in self.nodes:
            if node.poll() is None:
                os.killpg(node.pid, signal.SIGKILL)
            node.wait()
        shutil.rmtree(self.temp, ignore_errors=True)


def raylet_of(node: subprocess.Popen[bytes]) -> int:
    """The raylet that a ``ray start --block`` started."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == node.pid and b"raylet" in (folder / "cmdline").read_bytes().split(b"\0")[0]:
                return int(folder.name)
        except OSError:
            continue
    raise AssertionError("the node has no raylet")
