"""A Ray cluster on this machine; on the head of other clusters of Ray's, what gives them sweeps."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from alignray.errors import SweepError, WorkError
from alignray.launch.clusters.jobs import COMMAND, connect, run, sweeps
from alignray.launch.clusters.programs import program
from alignray.launch.clusters.protocol import Submission
from alignray.launch.clusters.token import require_token

_START_S, _STOP_S, _POLL_S = 120.0, 60.0, 0.5
_MACHINES, _PATIENCE_S = 10_000, 60
_KINDS = ("CPU", "GPU")
_ENVIRONMENT = {
    # Ray then takes this machine for one of those where it knows no other machines, and listens on the loopback alone:
    # it puts the machine's own address for 127.0.0.1 otherwise.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody unless the user turns it on
    "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # what runs does not end for being waited for
}


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalCluster:
    """Ray on this machine alone.

    Attributes:
        kind: What the user calls it.
        options: A YAML file with the options of ``ray start --head``.
    """

    kind: str
    options: Path

    def up(self) -> None:
        """See `Cluster.up`."""
        require_token()
        options = self._read()
        if self._head(options) is not None:
            click.echo(f"the cluster is up already, at {_url(options)}")
            return
        log = Path(f"~/.ray/alignray-{options['dashboard-port']}.log").expanduser()
        with log.open("w") as said:
            head = subprocess.Popen(
                [program("ray"), *_arguments(options)],
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                env=_ENVIRONMENT | os.environ,
                start_new_session=True,  # neither Ctrl-C nor the end of the terminal is its end
            )
        deadline = time.monotonic() + _START_S
        while not _answers(options):
            if head.poll() is not None or time.monotonic() > deadline:
                head.terminate()
                raise WorkError(f"Ray does not start; {log} says why: {_last_line(log)}")
            time.sleep(_POLL_S)
        click.echo(f"the cluster is up, at {_url(options)}; its dashboard asks for what `ray get-auth-token` prints")

    def status(self) -> None:
        """See `Cluster.status`."""
        url = _url(self._read())
        client = connect(url)
        from ray.util.state import list_nodes
        from ray.util.state.exception import RayStateApiException

        options: dict[str, Any] = {"limit": _MACHINES, "timeout": _PATIENCE_S}
        options["raise_on_missing_output"] = False  # to Ray, machines that have left are missing
        try:
            nodes = list_nodes(address=url, filters=[("state", "=", "ALIVE")], **options)
        except (OSError, RayStateApiException) as error:
            raise WorkError(f"the cluster at {url} does not say what it is made of: {error}") from error
        for node in nodes:
            there = [f"{node.resources_total[kind]:g} {kind}s" for kind in _KINDS if kind in node.resources_total]
            click.echo(f"machine  {node.node_ip}  {', '.join(there)}{'  head' if node.is_head_node else ''}")
        for job in sweeps(client):
            click.echo(f"sweep  {job.submission_id}  {job.status.lower()}  alignray {job.metadata[COMMAND]}")

    def submit(self, sweep: Submission) -> int:
        """See `Cluster.submit`."""
        return run(connect(_url(self._read())), sweep)

    def down(self) -> None:
        """See `Cluster.down`: what `up` started, and no other Ray of this machine, which ``ray stop`` would end too."""
        options = self._read()
        deadline = time.monotonic() + _STOP_S
        head = self._head(options)
        if head is None:
            click.echo("the cluster is not up")
            return
        os.kill(head, signal.SIGTERM)
        while self._head(options) is not None:
            if time.monotonic() > deadline:
                raise WorkError(
                    f"the cluster's process {head} did not end within {_STOP_S:.0f} s; end it: kill -9 {head}"
                )
            time.sleep(_POLL_S)
        click.echo("the cluster is down")

    def _read(self) -> dict[str, object]:
        try:
            options = yaml.safe_load(self.options.read_text())
        except (OSError, yaml.YAMLError) as error:
            raise SweepError(f"{self.options}: cannot be read ({error})") from error
        if not isinstance(options, dict) or not {"dashboard-host", "dashboard-port"} <= options.keys():
            raise SweepError(
                f"{self.options}: expected options of `ray start --head`, dashboard-host and dashboard-port among "
                f"them, got {options!r}"
            )
        return options

    def _head(self, options: dict[str, object]) -> int | None:
        """The process that holds the cluster: no other was started with these arguments by this user."""
        wanted = [argument.encode() for argument in _arguments(options)]
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if folder.stat().st_uid == os.getuid() and _argv(folder)[-len(wanted) :] == wanted:
                    return int(folder.name)
            except OSError:
                continue  # it has just ended
        return None


def _argv(folder: Path) -> list[bytes]:
    return (folder / "cmdline").read_bytes().split(b"\0")[:-1]


def _arguments(options: dict[str, object]) -> list[str]:
    """What ``ray`` is started with."""
    flags = (f"--{name}" if value is True else f"--{name}={value}" for name, value in options.items())
    return ["start", "--head", "--block", *flags]


def _url(options: dict[str, object]) -> str:
    return f"http://{options['dashboard-host']}:{options['dashboard-port']}"


def _answers(options: dict[str, object]) -> bool:
    try:
        connect(_url(options))
    except WorkError:
        return False
    return True


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else "nothing"
