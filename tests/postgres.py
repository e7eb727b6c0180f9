"""A throw-away PostgreSQL for tests: Debian's server in a temporary folder, on a free port of this machine."""

from __future__ import annotations

import contextlib
import os
import pwd
import secrets
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

DATABASE = "alignray"
_DEBIAN = Path("/usr/lib/postgresql")
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Postgres:
    """A server that runs.

    Attributes:
        port: Its port on 127.0.0.1.
        password: That of the user ``postgres``; no connection is accepted without it.
        folder: Its data and its log.
        programs: The folder of its programs.
    """

    port: int
    password: str
    folder: Path
    programs: Path

    @property
    def url(self) -> str:
        """The database as a URL without the password, which libpq also takes from ``PGPASSWORD``."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{DATABASE}"

    @property
    def url_with_password(self) -> str:
        return self.url.replace("@", f":{self.password}@")

    def start(self) -> None:
        """Start the server, and wait until it answers."""
        with (self.folder / "log").open("ab") as log:
            subprocess.run(
                [*self._pg_ctl, "-w", "-t", f"{_PATIENCE_S:.0f}", "start"],
                **_as_postgres(),
                stdout=log,
                stderr=log,
                check=True,
            )

    def stop(self) -> None:
        """Stop the server at once: whoever is connected loses the connection."""
        subprocess.run([*self._pg_ctl, "-w", "-m", "fast", "stop"], **_as_postgres(), capture_output=True, check=True)

    @property
    def _pg_ctl(self) -> list[str]:
        options = f"-h 127.0.0.1 -p {self.port} -k {self.folder} -c fsync=off"
        return [str(self.programs / "pg_ctl"), "-D", str(self.folder / "data"), "-o", options]


def postgres_programs() -> Path | None:
    """The folder of the newest PostgreSQL server that is installed; None where there is none."""
    found = sorted(_DEBIAN.glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    elsewhere = shutil.which("initdb")
    return None if elsewhere is None else Path(elsewhere).resolve().parent


def why_no_postgres() -> str | None:
    """Why no server can be started here; None where one can."""
    if postgres_programs() is None:
        return "no PostgreSQL server (Debian's package postgresql)"
    if os.geteuid() == 0 and not _known("postgres"):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server with an empty database, gone at the end."""
    programs = postgres_programs()
    assert programs is not None
    # Not pytest's tmp_path, whose folders are closed to other users: as root, the server runs as another one.
    folder = Path(tempfile.mkdtemp(prefix="alignray-postgres-"))
    server = Postgres(_free_port(), secrets.token_hex(16), folder, programs)
    try:
        _initialise(server)
        server.start()
        yield server
    finally:
        with contextlib.suppress(subprocess.CalledProcessError):
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _initialise(server: Postgres) -> None:
    secret = server.folder / "password"
    secret.write_text(server.password)
    if os.geteuid() == 0:
        for path in (server.folder, secret):
            shutil.chown(path, "postgres")
    command = [server.programs / "initdb", "-D", server.folder / "data", "-U", "postgres", "-A", "scram-sha-256"]
    command += ["--pwfile", secret, "-E", "UTF8", "--no-locale", "--no-sync"]
    done = subprocess.run(list(map(str, command)), **_as_postgres(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    single = [server.programs / "postgres", "--single", "-D", server.folder / "data", "postgres"]
    create = {"input": f"CREATE DATABASE {DATABASE}\n", "text": True, "capture_output": True, "check": True}
    subprocess.run(list(map(str, single)), **_as_postgres(), **create)


def _as_postgres() -> dict[str, object]:
    """What makes a process one of the user ``postgres``, where this one is root's."""
    return {"user": "postgres", "group": "postgres", "extra_groups": [], "cwd": "/"} if os.geteuid() == 0 else {}


def _known(user: str) -> bool:
    try:
        pwd.getpwnam(user)
    except KeyError:
        return False
    return True


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port: int = taken.getsockname()[1]
    return port
