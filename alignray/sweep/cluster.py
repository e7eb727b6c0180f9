"""The Ray cluster that a sweep runs on."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import socket
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from alignray.errors import SweepError
from alignray.sweep.config import ResourceConfig

_KNOCK_S = 5.0
_TOKEN = (
    "if the cluster is there and wants a token, set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN to what "
    "`ray get-auth-token` prints on its head node (or RAY_AUTH_TOKEN_PATH to a file that holds it)"
)
_TOKEN_FILE = Path("~/.ray/auth_token")
"""Where Ray keeps the token, and looks for it where neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH says otherwise."""
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",  # nothing is reported to anybody unless the user turns it on
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "RAY_AIR_NEW_OUTPUT": "0",  # Tune prints nothing of its own: the progress display is ours
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # a relative path means the same in every worker
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_MAX_PENDING_TRIALS_PG": "1000",  # as many as the searcher proposes, which knows what the cluster holds
    "TUNE_GLOBAL_CHECKPOINT_S": "inf",  # Tune's snapshots are for its restore; ours is from the journal
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a lost worker is one line of ours, not a traceback
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a trial that failed has no score
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is ours: the journal says what to go on with
}


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[None]:
    """Connect to a Ray cluster, or start one on this machine and stop it afterwards.

    Args:
        address: ``auto`` for the cluster that this machine belongs to, ``host:port`` of its head, or None for this
            machine alone.

    Raises:
        SweepError: No cluster answers at the address, or it is Ray Client's: Tune would run in the cluster, away from
            the sweep's journal.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    for name in ("ray", "ray.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # that trials failed, and why, is ours to say
    _require_answer(address)
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        options["include_dashboard"] = False
    try:
        with _closed() if address is None else contextlib.nullcontext():
            ray.init(address=address or "local", **options)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        # To whom it does not let in, Ray says no more than that it cannot connect.
        hint = "" if address is None else f"; {_TOKEN}"
        raise _no_cluster(address or "this machine", str(error).splitlines()[0], hint) from error
    try:
        with _terminated_as_interrupted():
            yield
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _closed() -> Iterator[None]:
    """Let a cluster that is started meanwhile listen on the loopback alone, and its token be read by its user alone.

    On Linux Ray listens on all interfaces, as it does not on macOS and Windows. The switch is a variable of the
    environment that it reads as it is imported, which it is by now.
    """
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        close_token()


def close_token() -> None:
    """Let the file of Ray's token be read by its user alone: Ray makes it as open as the umask lets it."""
    path = _TOKEN_FILE.expanduser()
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)


def require_gpus(resources: ResourceConfig) -> None:
    """Check that this machine has the GPUs of a single trial: unlike a cluster, it will never have more.

    Raises:
        SweepError: It has too few.
    """
    import torch

    needed, there = resources.needs.get("GPU", 0.0), torch.cuda.device_count()
    if needed > there:
        raise SweepError(
            f"resources.gpus_per_trial: a trial needs {needed:g} GPUs, and this machine has {there}; set it to 0 to "
            "train on the CPU, or use machines that have them, through --address"
        )


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Take SIGTERM for Ctrl-C: Slurm, Kubernetes and systemd stop a process so, and Ray's own handler exits at once."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set handlers
        yield
        return
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _require_answer(address: str | None) -> None:
    """Knock before Ray does: Ray tries for minutes at an address where nobody is."""
    if address is not None and address.startswith("ray://"):
        raise SweepError(
            f"--address: expected auto or HOST:PORT, got {address!r}; Ray Client cannot drive a sweep. Run the "
            "command on a machine of the cluster, with --address auto, or submit it: alignray cluster submit KIND run …"
        )
    host = re.fullmatch(r"([^:/]+):(\d+)", address or "")
    if host is None:
        return
    try:
        socket.create_connection((host[1], int(host[2])), timeout=_KNOCK_S).close()
    except OSError as error:
        raise _no_cluster(str(address), str(error)) from error


def _no_cluster(where: str, why: str, hint: str = "") -> SweepError:
    return SweepError(
        f"no Ray cluster at {where}: {why}; start one (ray start --head), or leave --address out to use this machine"
        f"{hint}"
    )
