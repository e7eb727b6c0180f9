"""Where MLflow is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from alignray.errors import SweepError

EXPERIMENT = "alignray"
"""The MLflow experiment that holds the sweeps."""

_SCHEMES = ("http", "https", "sqlite", "postgresql", "mysql", "mssql", "databricks")


def resolve_tracking_uri(uri: str | None) -> str:
    """The address of the MLflow store: the one given, ``MLFLOW_TRACKING_URI``, or ``sqlite:///mlflow.db``.

    A relative SQLite path is made absolute: the tracker may run in another folder.

    Raises:
        SweepError: The address has no scheme that MLflow's stores know.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or "sqlite:///mlflow.db"
    scheme = urlsplit(uri).scheme.split("+")[0]
    if scheme not in _SCHEMES:
        raise SweepError(
            f"tracking URI: expected {', '.join(f'{known}:…' for known in _SCHEMES[:4])}, got {redacted(uri)!r}; "
            "MLflow no longer keeps runs in plain folders"
        )
    relative = re.fullmatch(r"sqlite:///([^/].*)", uri)
    return f"sqlite:///{Path(relative[1]).resolve()}" if relative else uri


def redacted(uri: str) -> str:
    """The address, or no more than its scheme where it may carry a password."""
    return re.sub(r"^([\w+.-]+://)?.*[@?].*", r"\1…", uri, flags=re.DOTALL)


def without_passwords(text: str) -> str:
    """A text without the users and passwords of the addresses in it."""
    return re.sub(r"(://)[^/\s]*@", r"\1…@", text)
