"""`cluster/mlflow.sh`: MLflow behind a password that it made, which its clients find."""

import base64
import configparser
import os
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from alignray.launch.clusters import list_clusters

SCRIPT = list_clusters()["local"].parent / "mlflow.sh"


def answer(url, user=None, password=None):
    """The status of a request, or None where nobody answers."""
    request = urllib.request.Request(url)
    if user is not None:
        request.add_header("Authorization", "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None


@pytest.fixture
def server(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            ["sh", str(SCRIPT)],
            env={**kept, "HOME": str(tmp_path), "PATH": path, "MLFLOW_PORT": str(port)},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 200
        while answer(f"http://127.0.0.1:{port}/health") is None:
            assert process.poll() is None, (tmp_path / "log").read_text()[-2_000:]
            assert time.monotonic() < deadline, "MLflow did not start"
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_mlflow_lets_in_who_has_the_password_that_it_made(server, tmp_path):
    found = configparser.ConfigParser()
    found.read(tmp_path / ".mlflow" / "credentials")
    user, password = found["mlflow"]["mlflow_tracking_username"], found["mlflow"]["mlflow_tracking_password"]
    assert len(password) > 40
    asked = f"{server}/api/2.0/mlflow/experiments/get?experiment_id=0"
    assert answer(asked, user, password) == 200
    assert answer(asked) == 401
    for wrong in ("password1234", "password", password[:-1]):
        assert answer(asked, user, wrong) == 401
    for path in (tmp_path / ".mlflow").rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path
    assert password not in (tmp_path / "log").read_text()
