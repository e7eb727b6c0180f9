"""Sweeps as jobs of a Ray cluster, through Ray's own job submission."""

from __future__ import annotations

import asyncio
import logging
import os
import shlex
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from alignray.errors import WorkError
from alignray.launch.clusters.protocol import Submission
from alignray.launch.clusters.token import require_token
from alignray.tracking import without_password

if TYPE_CHECKING:
    from ray.job_submission import JobDetails, JobSubmissionClient

SWEEP, STORAGE, COMMAND = "alignray.sweep", "alignray.storage", "alignray.command"
"""What a job says of itself."""
_POLL_S = 0.2


def connect(url: str) -> JobSubmissionClient:
    """Ray's job server at an address, or where ``RAY_API_SERVER_ADDRESS`` says that it is.

    Raises:
        WorkError: It does not answer, or does not let us in.
    """
    require_token()
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    logging.getLogger(JobSubmissionClient.__module__).setLevel(logging.WARNING)  # that a log has ended is no news
    try:
        return JobSubmissionClient(url)
    except AuthenticationError as error:
        raise WorkError(
            f"the cluster at {url} was started with another token than ours, and does not let us in"
        ) from error
    except (OSError, RuntimeError) as error:
        raise WorkError(f"no cluster answers at {url}; start it: alignray cluster up ({error})") from error


def sweeps(client: JobSubmissionClient) -> list[JobDetails]:
    """The cluster's jobs that are sweeps, the oldest first."""
    return sorted(
        (job for job in client.list_jobs() if SWEEP in (job.metadata or {})), key=lambda job: job.start_time or 0
    )


def run(client: JobSubmissionClient, sweep: Submission) -> int:
    """Run a sweep as a job and follow its log, or follow the job that runs it already.

    Args:
        client: The cluster's job server, on this machine.
        sweep: The sweep.

    Returns:
        The exit status of the sweep.

    Raises:
        WorkError: The log was left before the sweep's end: by Ctrl-C, or as the cluster no longer answered.
    """
    mark = {SWEEP: sweep.name, STORAGE: str(Path(sweep.storage).absolute())}
    there = [job for job in sweeps(client) if not job.status.is_terminal() and mark.items() <= job.metadata.items()]
    if there:
        job, said = there[0].submission_id, "runs in the cluster already; this is its log"
    else:
        job, said = _submit(client, sweep, mark), "runs in the cluster, whatever becomes of this command"
    again = f"To follow it again, submit: {shlex.join(('resume', sweep.name, '--storage', sweep.storage))}"
    click.echo(f"sweep {sweep.name} {said}. {again}")
    try:
        return asyncio.run(_follow(client, job))
    except KeyboardInterrupt:
        raise WorkError(f"sweep {sweep.name} goes on in the cluster. {again}") from None
    except (OSError, RuntimeError) as error:
        raise WorkError(f"the cluster no longer answers ({error}). {again}") from error


def _submit(client: JobSubmissionClient, sweep: Submission, mark: Mapping[str, str]) -> str:
    """The sweep runs in this folder, as it would without a cluster, and finds the same files."""
    command = [sys.executable, "-m", "alignray", *sweep.command, "--address", "auto"]
    store = os.environ.get("MLFLOW_TRACKING_URI")  # the job has the cluster's environment, not ours
    if store and sweep.command[0] == "run" and not any(part.startswith("--tracking-uri") for part in sweep.command):
        command += ["--tracking-uri", without_password(store)]
    taken = {job.submission_id for job in client.list_jobs()}
    names = (sweep.name if count == 1 else f"{sweep.name}-{count}" for count in range(1, len(taken) + 2))
    try:
        submitted: str = client.submit_job(
            entrypoint=f"cd {shlex.quote(str(Path.cwd()))} && exec {shlex.join(command)}",
            submission_id=next(name for name in names if name not in taken),
            metadata={**mark, COMMAND: shlex.join(sweep.command)},
        )
    except RuntimeError as error:
        raise WorkError(f"the cluster does not take the sweep {sweep.name}: {error}") from error
    return submitted


async def _follow(client: JobSubmissionClient, job: str) -> int:
    """Pass on the log of a job until its end; its exit status."""
    async for lines in client.tail_job_logs(job):
        click.echo(lines, nl=False)
    while not (info := client.get_job_info(job)).status.is_terminal():
        time.sleep(_POLL_S)
    return _exit_status(info)


def _exit_status(info: Any) -> int:
    """Of the command, where it ended by itself; 1 where the cluster or a signal ended it."""
    if info.status == "SUCCEEDED":
        return 0
    if info.driver_exit_code is None or info.driver_exit_code <= 0:
        click.echo(f"alignray: the sweep was ended: {info.message}", err=True)
        return 1
    return int(info.driver_exit_code)
