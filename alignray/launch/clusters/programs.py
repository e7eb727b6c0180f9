"""Running the programs that clusters are driven with."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from alignray.errors import SweepError, WorkError


def call(command: Sequence[str], *, folder: Path | None = None) -> int:
    """Run a program, and pass on what it says and what the user types.

    Args:
        command: The program and its arguments.
        folder: Where it runs; None for where this process does.

    Returns:
        Its exit status.

    Raises:
        SweepError: There is no such program.
    """
    sys.stdout.flush()  # what was said before it comes before it
    return subprocess.run([program(command[0]), *command[1:]], cwd=folder, check=False).returncode


def require(command: Sequence[str], what: str, *, folder: Path | None = None) -> None:
    """Run a program that must succeed; see `call`.

    Args:
        command: The program and its arguments.
        what: What failed if it does not, for the error.
        folder: Where it runs; None for where this process does.

    Raises:
        SweepError: There is no such program.
        WorkError: It failed.
    """
    if status := call(command, folder=folder):
        raise WorkError(f"{what}: {command[0]} ended with status {status}, and says above why")


def program(name: str) -> str:
    """The path of a program: the one installed with this Python, else the one on the PATH.

    Raises:
        SweepError: There is no such program.
    """
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise SweepError(f"this needs the program {name!r}, and there is none on the PATH; install it")
    return found


def output(command: Sequence[str], *, stdin: str | None = None) -> str:
    """What a program prints that must succeed.

    Args:
        command: The program and its arguments.
        stdin: What it reads; None for what this process does.

    Raises:
        SweepError: There is no such program.
        WorkError: It failed.
    """
    path = program(command[0])
    done = subprocess.run([path, *command[1:]], input=stdin, capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().rpartition("\n")[2]
        raise WorkError(f"{shlex.join(command)} ended with status {done.returncode}: {said}")
    return done.stdout
