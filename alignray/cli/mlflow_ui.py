"""The MLflow UI, as a server of this user on this machine."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import webbrowser
from pathlib import Path
from urllib.parse import quote

import click

from alignray.errors import SweepError, WorkError
from alignray.tracking import EXPERIMENT

_FIRST_PORT, _PORTS = 5000, 100
_START_S = 60.0


def serve(uri: str, sweep: str | None, *, port: int | None, open_browser: bool | None) -> None:
    """Serve the UI of a store until Ctrl-C; a store that is a server already is only pointed to.

    Args:
        uri: The MLflow store.
        sweep: The sweep to show, or None for all.
        port: The port; None for the first free one from 5000.
        open_browser: Whether to open a browser; None for at a terminal only.

    Raises:
        SweepError: The store does not exist.
        WorkError: The server did not start.
    """
    if open_browser is None:
        open_browser = sys.stdout.isatty()
    experiment = _experiment_id(uri)
    if uri.startswith(("http://", "https://")):
        _show(_page(uri.rstrip("/"), experiment, sweep), open_browser)
        return
    port = port or _free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", "127.0.0.1", "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"},
        text=True,
    )
    try:
        _await(server, port)
        _show(_page(f"http://127.0.0.1:{port}", experiment, sweep), open_browser)
        click.echo("Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            server.wait()
    finally:
        server.terminate()
        server.wait(timeout=10)


def _experiment_id(uri: str) -> str:
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise SweepError(
            f"no MLflow store at {uri.removeprefix('sqlite:///')}; run a sweep first, or name one with --tracking-uri"
        )
    from mlflow import MlflowClient

    experiment = MlflowClient(uri).get_experiment_by_name(EXPERIMENT)
    if experiment is None:
        raise SweepError(f"no experiment {EXPERIMENT!r} in the MLflow store; run a sweep first")
    return str(experiment.experiment_id)


def _page(server: str, experiment: str, sweep: str | None) -> str:
    page = f"{server}/#/experiments/{experiment}/runs"
    if sweep is None:
        return page
    wanted = f"tags.`alignray.sweep` = '{sweep}'"
    return f"{page}?searchFilter={quote(wanted, safe='')}"


def _show(page: str, open_browser: bool) -> None:
    click.echo(f"MLflow UI: {page}")
    if open_browser:
        webbrowser.open(page)


def _free_port() -> int:
    for port in range(_FIRST_PORT, _FIRST_PORT + _PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise WorkError(f"no free port between {_FIRST_PORT} and {_FIRST_PORT + _PORTS}; choose one with --port")


def _await(server: subprocess.Popen[str], port: int) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            assert server.stderr is not None
            said = server.stderr.read().strip().splitlines()
            raise WorkError(f"the MLflow UI did not start: {said[-1] if said else f'status {server.returncode}'}")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise WorkError(f"the MLflow UI did not answer within {_START_S:.0f} s")
