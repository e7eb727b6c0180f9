"""MLflow servers in processes of their own, that tests may kill."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

PASSWORD = "correct-horse-battery"
_PATIENCE_S = 120.0


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class MlflowServer:
    """``mlflow server`` on one port of the loopback, whenever it is started.

    Attributes:
        home: Its folder.
        store: Its backend store.
        authenticated: Whether it asks for a user and a password: ``admin``, and ``PASSWORD``.
    """

    home: Path
    store: str
    authenticated: bool = False
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--workers", "1", "--artifacts-destination", str(self.home / "artifacts")]
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
            "MLFLOW_BACKEND_STORE_URI": self.store,
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        }
        if self.authenticated:
            (self.home / "auth.ini").write_text(
                f"[mlflow]\ndefault_permission = READ\ndatabase_uri = sqlite:///{self.home}/auth.db\n"
                f"admin_username = admin\nadmin_password = {PASSWORD}\n"
                "authorization_function = mlflow.server.auth:authenticate_request_basic_auth\n"
            )
            environment["MLFLOW_AUTH_CONFIG_PATH"] = str(self.home / "auth.ini")
            environment["MLFLOW_FLASK_SERVER_SECRET_KEY"] = "of a test"
            command += ["--app-name", "basic-auth"]
        with (self.home / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.home, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _PATIENCE_S
        while not self._answers():
            assert self.process.poll() is None, (self.home / "server.log").read_text()[-2_000:]
            assert time.monotonic() < deadline, "the MLflow server did not start"
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and all its processes, at once."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False
