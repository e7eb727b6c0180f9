"""`cluster/mlflow.sh`: MLflow behind a password that it made, which its clients find."""

import configparser
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
import requests
from ports import free_port

from alignray.launch.clusters import list_clusters

SCRIPT = list_clusters()["local"].parent / "mlflow.sh"


def answer(url, user=None, password=None):
    """The status of a request, or None where nobody answers."""
    try:
        return requests.get(url, auth=None if user is None else (user, password), timeout=10).status_code
    except requests.ConnectionError:
        return None


@pytest.fixture
def server(tmp_path):
    port = free_port()
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
