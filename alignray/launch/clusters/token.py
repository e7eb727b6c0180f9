"""The token without which nobody can use a cluster of Ray's."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from alignray.errors import WorkError
from alignray.launch.clusters.programs import program

TOKEN = Path("~/.ray/auth_token")
"""Where Ray keeps the token, and looks for it where neither RAY_AUTH_TOKEN nor RAY_AUTH_TOKEN_PATH says otherwise."""


def require_token() -> None:
    """Have this process and those that it starts use Ray's token, which is made where there is none.

    Ray writes the file as open as the user's umask lets it: here nobody else may read it.

    Raises:
        SweepError: There is no program ``ray``.
        WorkError: It cannot be made.
    """
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    # Ray prints the token as well.
    made = subprocess.run(
        [program("ray"), "get-auth-token", "--generate"],
        umask=0o077,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    if made.returncode:
        raise WorkError(f"Ray makes no token: {made.stderr.strip()}")
    path = TOKEN.expanduser()
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        path.chmod(0o600)
