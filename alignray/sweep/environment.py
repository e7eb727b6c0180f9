"""Where a sweep runs: the packages, the command, and the nodes of its cluster, without secrets."""

from __future__ import annotations

import getpass
import json
import platform
import shlex
import socket
import sys
from datetime import UTC, datetime
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

from alignray.tracking import without_secrets

_FILE = "environment.json"


def write_environment(folder: Path) -> Path:
    """Write down where the sweep runs, as of now: it may go on elsewhere than it began."""
    path = folder / _FILE
    path.write_text(json.dumps(_environment(), indent=2) + "\n")
    return path


def command_line() -> str:
    """The command that started this process, without secrets."""
    program = Path(sys.argv[0])
    begin = ["python", "-m", program.parent.name] if program.name == "__main__.py" else [program.name]
    return without_secrets(shlex.join([*begin, *sys.argv[1:]]))


def _environment() -> dict[str, Any]:
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command_line(),
        "host": socket.gethostname(),
        "user": _user(),
        "platform": platform.platform(),
        "python": sys.version.split()[0],
        "packages": dict(sorted({found.name: found.version for found in distributions()}.items())),
        "nodes": _nodes(),
    }


def _user() -> str | None:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return None


def _nodes() -> list[dict[str, Any]]:
    import ray

    return [
        {"host": node["NodeManagerHostname"], "resources": node["Resources"]} for node in ray.nodes() if node["Alive"]
    ]
