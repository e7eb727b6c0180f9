"""The token without which nobody can use a cluster of Ray's."""

from __future__ import annotations

import os
import subprocess

from alignray.errors import WorkError
from alignray.launch.clusters.programs import program
from alignray.sweep import close_token


def require_token() -> None:
    """Have this process and those that it starts use Ray's token, which is made where there is none.

    Nobody else may read its file, at no time.

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
    close_token()
