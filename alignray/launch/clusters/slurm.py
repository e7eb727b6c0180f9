"""Slurm: every sweep is a job with an allocation, and so a Ray cluster, of its own."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from pathlib import Path

import click

from alignray.errors import WorkError
from alignray.launch.clusters.programs import output, require
from alignray.launch.clusters.protocol import Submission

_MARK = "alignray"
"""The comment by which our jobs are told from the user's others."""
_POLL_S = 2.0
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL", "DEADLINE")


@dataclass(frozen=True, kw_only=True, slots=True)
class SlurmCluster:
    """The user's sweeps in Slurm's queue; see `Cluster` for what each method does.

    Attributes:
        kind: What the user calls it.
        script: The batch script: it starts Ray in the allocation, and runs ``alignray`` with the arguments it gets.
    """

    kind: str
    script: Path

    def up(self) -> None:
        """See `Cluster.up`."""
        require(["sinfo"], "Slurm does not answer")
        click.echo(f"Nothing to start: alignray cluster submit {self.kind} … makes an allocation for its sweep.")

    def status(self) -> None:
        """See `Cluster.status`."""
        require(["sinfo"], "Slurm does not answer")
        require(["squeue", "--me"], "Slurm does not answer")

    def submit(self, sweep: Submission) -> int:
        """See `Cluster.submit`."""
        job = next((job for job, name in _jobs() if name == sweep.name), None)
        if job is None:
            resume = ["--resume"] if sweep.command[0] == "run" else []  # Slurm may start it again
            options = ["--parsable", f"--job-name={sweep.name}", f"--comment={_MARK}"]
            said = output(["sbatch", *options, str(self.script), *sweep.command, *resume])
            job = said.strip().partition(";")[0]
            click.echo(f"Job {job} is the sweep {sweep.name}, and goes on without this command; its log follows.")
        else:
            click.echo(f"Job {job} is the sweep {sweep.name} already; its log follows.")
        try:
            return _follow(job)
        except KeyboardInterrupt:
            raise WorkError(
                f"job {job} goes on; the same command follows it again, and alignray cluster down {self.kind} ends it"
            ) from None

    def down(self) -> None:
        """See `Cluster.down`: the sweeps are asked to stop, as with Ctrl-C, and do so in their own time."""
        jobs = _jobs()
        if not jobs:
            click.echo("There is no sweep in the queue.")
        for job, name in jobs:
            # A job that waits has no process to ask; of one that runs, the script alone is asked: it lets the sweep
            # end before Ray, which a plain scancel would end at the same time.
            require(["scancel", "--state=PENDING", job], f"job {job} was not cancelled")
            require(["scancel", "--state=RUNNING", "--batch", "--signal=TERM", job], f"job {job} was not stopped")
            click.echo(f"Job {job}, the sweep {name}, was asked to stop, and does so within a minute.")


def _jobs() -> list[tuple[str, str]]:
    """Our jobs that wait or run: the identity and the sweep of each."""
    rows = output(["squeue", "--me", "--noheader", "--format=%i|%j|%k"]).splitlines()
    split = [row.split("|", 2) for row in rows]
    return [(job, name) for job, name, comment in split if comment == _MARK]


def _follow(job: str) -> int:
    """Pass a job's log on until the job has ended; its exit status."""
    shown = 0
    while True:
        record = output(["scontrol", "show", "job", job])  # before the log, which then has all that belongs to it
        state, log = _field(record, r"JobState=(\w+)"), Path(_field(record, r"^ *StdOut=(.*)$"))
        if log.exists():
            with log.open("rb") as file:
                file.seek(shown)
                text = file.read()
            shown += len(text)
            click.echo(text, nl=False)
        if state in _ENDED:
            break
        time.sleep(_POLL_S)
    status = int(_field(record, r"ExitCode=(\d+)"))
    return status if state == "COMPLETED" else status or 1


def _field(record: str, pattern: str) -> str:
    found = re.search(pattern, record, re.MULTILINE)
    assert found is not None, record
    return found[1]
