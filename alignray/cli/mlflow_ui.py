"""The MLflow UI, as a server of this user on this machine."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import webbrowser
from collections.abc import Iterator
from pathlib import Path

import click

from alignray.errors import SweepError, WorkError
from alignray.tracking import without_password

_FIRST_PORT, _PORTS = 5000, 100
_START_S = 60.0
_STOP_S = 5.0
_SERVER = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}


def serve(uri: str, sweep: str | None, *, port: int | None, open_browser: bool | None) -> None:
    """Serve the UI of a store until Ctrl-C; a store that is a server already is only pointed to.

    Args:
        uri: The MLflow store.
        sweep: The sweep to show, or None for all.
        port: The port; None for the first free one from 5000.
        open_browser: Whether to open a browser; None for at a terminal only.

    Raises:
        SweepError: The store does not exist, or the port is taken.
        WorkError: The server did not start.
    """
    from alignray.tracking.reading import experiment_id, open_store
    from alignray.tracking.view import sweep_view

    if open_browser is None:
        open_browser = sys.stdout.isatty()
    client = open_store(uri)
    experiment = experiment_id(client)
    page = f"#/experiments/{experiment}/runs" if sweep is None else sweep_view(client, experiment, sweep)
    if uri.startswith(("http://", "https://")):
        _show(f"{without_password(uri).rstrip('/')}/{page}", open_browser)
        return
    if port is not None and _answers(port):
        raise SweepError(f"port {port} is taken; choose another --port, or leave it out")
    port = port or _free_port()
    with _server(uri, port) as (server, log):
        _await(server, port, log)
        _show(f"http://127.0.0.1:{port}/{page}", open_browser)
        click.echo("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()


@contextlib.contextmanager
def _server(uri: str, port: int) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """MLflow's server with the file of its messages; stopped at the end, and all the processes that it started."""
    address = ["--host", "127.0.0.1", "--port", str(port)]
    store = {"MLFLOW_BACKEND_STORE_URI": uri}  # not an argument, for every user sees those
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` stops it as Ctrl-C does
    with tempfile.NamedTemporaryFile(prefix="alignray-ui-", suffix=".log") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "ui", *address, "--workers", "1"],  # one user
            stdout=subprocess.DEVNULL,
            stderr=log,
            env={**os.environ, **store, **_SERVER},
            start_new_session=True,  # a group of their own, to be stopped together
        )
        try:
            yield server, Path(log.name)
        finally:
            with contextlib.suppress(ProcessLookupError, subprocess.TimeoutExpired, KeyboardInterrupt):
                os.killpg(server.pid, signal.SIGTERM)
                server.wait(_STOP_S)
            with contextlib.suppress(ProcessLookupError):  # where nobody is left
                os.killpg(server.pid, signal.SIGKILL)
            server.wait()
            signal.signal(signal.SIGTERM, before)


def _show(page: str, open_browser: bool) -> None:
    click.echo(f"MLflow UI: {page}")
    if open_browser:
        webbrowser.open(page)


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        if not _answers(port):
            return port
    raise WorkError(f"no free port between {_FIRST_PORT} and {_FIRST_PORT + _PORTS}; choose one with --port")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _await(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            said = log.read_text(errors="replace").strip().splitlines()
            raise WorkError(f"the MLflow UI did not start: {said[-1] if said else f'status {server.returncode}'}")
        if _answers(port):
            return
        time.sleep(0.1)
    raise WorkError(f"the MLflow UI did not answer within {_START_S:.0f} s")
