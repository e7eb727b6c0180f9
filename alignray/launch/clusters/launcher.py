"""Machines that Ray's cluster launcher starts: on premises, on AWS, on GCP. Everything goes through ssh."""

from __future__ import annotations

import shlex
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click

from alignray.launch.clusters.programs import call, program, require
from alignray.launch.clusters.protocol import Submission
from alignray.launch.clusters.token import require_token


@dataclass(frozen=True, kw_only=True, slots=True)
class LauncherCluster:
    """A cluster of ``ray up``, whose head runs sweeps as `LocalCluster` does.

    Attributes:
        kind: What the user calls it.
        config: The launcher's YAML file.
    """

    kind: str
    config: Path

    def up(self) -> None:
        """See `Cluster.up`. The token of this machine becomes that of the cluster."""
        require_token()
        if self._is_up():  # `ray up` would start Ray anew, under the sweeps that run
            click.echo("the cluster is up already")
            return
        self._require("up", "--yes", self.config.name)

    def status(self) -> None:
        """See `Cluster.status`."""
        self._require(*self._on_head("status"))

    def submit(self, sweep: Submission) -> int:
        """See `Cluster.submit`. A sweep's file that is on this machine is copied to the head first."""
        command, own = list(sweep.command), Path(sweep.command[1])
        if sweep.command[0] == "run" and own.suffix == ".py" and own.is_file():
            self._require("rsync-up", self.config.name, str(own.absolute()), f"~/{own.name}")
            command[1] = own.name
        return call(["ray", *self._on_head("submit", *command)], folder=self.config.parent)

    def down(self) -> None:
        """See `Cluster.down`."""
        self._require("down", "--yes", self.config.name)

    def _is_up(self) -> bool:
        command = [program("ray"), *self._on_head("status")]
        return subprocess.run(command, cwd=self.config.parent, capture_output=True, check=False).returncode == 0

    def _on_head(self, verb: str, *arguments: str) -> list[str]:
        return ["exec", self.config.name, shlex.join(["alignray", "cluster", verb, "local", *arguments])]

    def _require(self, *arguments: str) -> None:
        """Run ``ray`` beside the configuration, from where its paths are meant."""
        require(["ray", *arguments], f"cluster {self.kind}", folder=self.config.parent)
