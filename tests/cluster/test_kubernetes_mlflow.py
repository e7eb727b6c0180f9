"""MLflow as cluster/kubernetes starts it: its arguments, configuration and variables, on PostgreSQL."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from ports import free_port
from postgres import Postgres

from alignray.tracking import require_access

FOLDER = Path(__file__).parents[2] / "cluster" / "kubernetes"
(CONFIG,) = (d for d in yaml.safe_load_all((FOLDER / "mlflow.yaml").read_text()) if d["kind"] == "ConfigMap")
(DEPLOYMENT,) = (d for d in yaml.safe_load_all((FOLDER / "mlflow.yaml").read_text()) if d["kind"] == "Deployment")
(CONTAINER,) = DEPLOYMENT["spec"]["template"]["spec"]["containers"]
EXPERIMENT = "api/2.0/mlflow/experiments/get?experiment_id=0"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@dataclass(frozen=True)
class Server:
    port: int
    password: str
    folder: Path

    def status(self, path: str = EXPERIMENT, password: str = "", **headers: str) -> int:
        """How a request is answered, as if it came to the service's name."""
        answer = requests.get(
            f"http://127.0.0.1:{self.port}/{path}",
            headers={"Host": "mlflow:5000"} | headers,
            auth=("admin", password) if password else None,
            timeout=20,
        )
        return answer.status_code


@pytest.fixture(scope="module")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("mlflow")
    for name in ("etc", "artifacts", "tmp", "root"):
        (folder / name).mkdir()
    moved = {
        "/tmp": str(folder / "tmp"),
        "/artifacts": str(folder / "artifacts"),
        "/etc/mlflow": str(folder / "etc"),
        "mlflow@postgres/mlflow": postgres.url.removeprefix("postgresql://"),
    }
    made = {key: secrets.token_hex(16) for key in ("mlflow-password", "mlflow-session-key")}
    made["postgres-password"] = postgres.password
    port = free_port()
    (folder / "etc" / "auth.ini").write_text(replaced(CONFIG["data"]["auth.ini"], moved))
    arguments = [replaced(argument, moved) for argument in CONTAINER["args"]]
    arguments += ["--host=127.0.0.1", f"--port={port}"]  # the last holds
    variables = {entry["name"]: value_of(entry, made, moved) for entry in CONTAINER["env"]}
    command = [str(Path(sys.executable).with_name(CONTAINER["command"][0])), *CONTAINER["command"][1:], *arguments]
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "PG"))}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder / "root", env=kept | variables, stdout=log, stderr=log)
    try:
        started = Server(port, made["mlflow-password"], folder)
        until_ready(started, process)
        yield started
    finally:
        process.terminate()
        process.wait(30)


def replaced(text: str, moved: dict[str, str]) -> str:
    for there, here in moved.items():
        text = text.replace(there, here)
    return text


def value_of(entry: dict[str, Any], made: dict[str, str], moved: dict[str, str]) -> str:
    return made[entry["valueFrom"]["secretKeyRef"]["key"]] if "valueFrom" in entry else replaced(entry["value"], moved)


def until_ready(server: Server, process: subprocess.Popen[bytes]) -> None:
    """As the readiness probe asks."""
    probe = CONTAINER["readinessProbe"]["httpGet"]
    headers = {header["name"]: header["value"] for header in probe["httpHeaders"]}
    deadline = time.monotonic() + 180
    while True:
        assert process.poll() is None, (server.folder / "log").read_text()
        assert time.monotonic() < deadline, (server.folder / "log").read_text()
        try:
            if server.status(probe["path"].strip("/"), **headers) == 200:
                return
        except requests.ConnectionError:
            time.sleep(0.5)


def test_only_the_password_opens_it(server: Server) -> None:
    assert server.status() == 401
    assert server.status(password="wrong") == 401
    assert server.status(password=server.password) == 200


def test_it_answers_to_the_service_s_name_alone(server: Server) -> None:
    assert server.status(password=server.password, Host="localhost:5000") == 200
    assert server.status(password=server.password, Host="elsewhere.example") == 403


def test_a_sweep_may_write(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", server.password)
    assert require_access(f"http://localhost:{server.port}") == ""


def test_it_writes_to_its_volumes_alone(server: Server) -> None:
    assert list((server.folder / "root").iterdir()) == []


def test_no_password_is_logged(server: Server) -> None:
    log = (server.folder / "log").read_text()
    assert server.password not in log
