"""The page on security, taken at its word: nginx ends TLS before MLflow, which asks for a password."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import certifi
import pytest
import requests
from servers import PASSWORD, free_port
from stream import events, held, told, until

from alignray.tracking import Tracker, require_access

PAGE = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
HOST = "mlflow.example.com"
NGINX = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(NGINX is None or shutil.which("openssl") is None, reason="no nginx, or no openssl"),
]


def file_of(path: str) -> str:
    """A file that the page shows."""
    (found,) = re.findall(rf"^```\w+\n# {re.escape(path)}\b.*?\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return found


def certificate(home: Path) -> None:
    """An authority of its own, and a certificate by it for the name ``localhost``."""
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    request = ["openssl", "req", *key, "-keyout"]
    (home / "extensions").write_text("subjectAltName=DNS:localhost\n")
    signed = ["-CA", "ca.pem", "-CAkey", "ca-key.pem", "-CAcreateserial", "-days", "2", "-extfile", "extensions"]
    for command in (
        [*request, "ca-key.pem", "-x509", "-out", "ca.pem", "-subj", "/CN=an authority", "-days", "2"],
        [*request, "key.pem", "-out", "request.pem", "-subj", "/CN=localhost"],
        ["openssl", "x509", "-req", "-in", "request.pem", "-out", "certificate.pem", *signed],
    ):
        subprocess.run(command, cwd=home, check=True, capture_output=True)


class Service:
    """The server and the proxy of the page, in a folder and on ports of the test's own."""

    def __init__(self, home: Path) -> None:
        self.home, self.port, self.mlflow_port = home, free_port(), free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        changes = {"/etc/mlflow": str(home), "/var/lib/mlflow": str(home), HOST: "localhost"}
        changes |= {
            "CHOOSE-A-LONG-ONE": PASSWORD,
            "postgresql+psycopg://mlflow@127.0.0.1/mlflow": f"sqlite:///{home}/db",
        }
        changes |= {"443": str(self.port), ":5000": f":{self.mlflow_port}", "--port 5000": f"--port {self.mlflow_port}"}
        self.changes = changes

    def here(self, text: str) -> str:
        """A text of the page with the places of this test."""
        for theirs, ours in self.changes.items():
            text = text.replace(theirs, ours)
        return text

    def environment(self, *, without: str = "") -> dict[str, str]:
        """That of MLflow."""
        lines = self.here(file_of("/etc/mlflow/environment")).splitlines()
        told = dict(line.split("=", 1) for line in lines if not line.startswith(without or "#"))
        return {**{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}, **told}

    def mlflow(self, environment: dict[str, str]) -> subprocess.Popen[bytes]:
        (self.home / "auth.ini").write_text(self.here(file_of("/etc/mlflow/auth.ini")))
        (command,) = re.findall(r"^mlflow server .*$", PAGE, re.MULTILINE)
        arguments = [*self.here(command).split()[1:], "--workers", "1"]
        with (self.home / "mlflow.log").open("ab") as log:
            started = subprocess.Popen(
                [sys.executable, "-m", "mlflow", *arguments],
                cwd=self.home,
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.processes.append(started)
        return started

    def nginx(self) -> None:
        (self.home / "nginx.conf").write_text(
            f"daemon off; pid {self.home}/nginx.pid; error_log {self.home}/nginx.log;\nevents {{}}\n"
            f"http {{ access_log off; client_body_temp_path {self.home}/body; proxy_temp_path {self.home}/proxy;\n"
            + self.here(file_of("/etc/nginx/conf.d/mlflow.conf"))
            + "}\n"
        )
        self.processes.append(subprocess.Popen([NGINX, "-c", self.home / "nginx.conf"], start_new_session=True))

    def end(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    one = Service(tmp_path_factory.mktemp("tls"))
    certificate(one.home)
    try:
        one.mlflow(one.environment())
        one.nginx()
        yield one
    finally:
        one.end()


@pytest.fixture
def uri(service, monkeypatch):
    """The address, once it answers, and a user's environment."""
    address = f"https://localhost:{service.port}"
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(service.home / "ca.pem"))
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)

    def answers() -> bool:
        try:
            return requests.get(f"{address}/health", timeout=5).ok
        except (requests.ConnectionError, requests.Timeout):
            assert all(process.poll() is None for process in service.processes), (
                service.home / "mlflow.log"
            ).read_text()
            return False

    until(answers)
    return address


def test_a_tracker_writes_through_it_as_a_user_who_made_nothing(uri, tmp_path, monkeypatch):
    assert require_access(uri) == ""  # the experiment is the administrator's
    user = {"username": "me", "password": "reads-and-writes"}
    made = requests.post(f"{uri}/api/2.0/mlflow/users/create", json=user, auth=("admin", PASSWORD), timeout=60)
    assert made.ok, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", user["username"])
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", user["password"])
    assert require_access(uri) == ""
    given = events()
    tracker = Tracker(str(tmp_path / "spool"), uri, "id", limit_bytes=10**9)
    tracker.log(given)
    until(lambda: tracker.backlog().size == 0)
    assert (tracker.backlog().error, tracker.backlog().refused) == ("", 0)
    assert held(uri) == told(given)


def test_a_file_larger_than_nginx_takes_by_default_arrives_whole(uri, tmp_path):
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("of a large file"))
    (tmp_path / "large").write_bytes(os.urandom(5_000_000))
    client.log_artifact(run.info.run_id, str(tmp_path / "large"))
    (tmp_path / "back").mkdir()
    back = client.download_artifacts(run.info.run_id, "large", str(tmp_path / "back"))
    assert Path(back).read_bytes() == (tmp_path / "large").read_bytes()


def test_others_are_refused(uri, service):
    search = f"{uri}/api/2.0/mlflow/experiments/search"
    good = ("admin", PASSWORD)
    answer = requests.get(search, params={"max_results": 1}, auth=good, timeout=60)
    assert answer.ok, answer.text
    assert "max-age" in answer.headers["Strict-Transport-Security"]
    for known in (None, ("admin", "wrong")):
        assert requests.get(search, auth=known, timeout=60).status_code == 401
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(search, auth=good, verify=certifi.where(), timeout=60)  # whose authorities are not ours
    assert requests.get(search.replace("https:", "http:"), auth=good, timeout=60).status_code == 400
    elsewhere = {"Origin": "https://evil.example"}
    posted = requests.post(search, json={"max_results": 1}, auth=good, headers=elsewhere, timeout=60)
    assert (posted.status_code, posted.text) == (403, "Cross-origin request blocked")
    past = f"http://127.0.0.1:{service.mlflow_port}/api/2.0/mlflow/experiments/search"
    assert requests.get(past, auth=good, timeout=60).status_code == 403  # only under the name that it is known by


def test_without_a_password_for_the_administrator_mlflow_does_not_start(tmp_path):
    one = Service(tmp_path)
    started = one.mlflow(one.environment(without="MLFLOW_AUTH_ADMIN_PASSWORD"))
    try:
        deadline = time.monotonic() + 120
        while "admin" not in (said := (tmp_path / "mlflow.log").read_text()):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
        assert "password" in said
    finally:
        one.end()
    assert started.returncode is not None
