"""Where MLflow is."""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import urlsplit

from alignray.errors import SweepError
from alignray.tracking.secrets import without_secret_items

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


def without_password(uri: str) -> str:
    """The address as it may be kept and shown: with its user, without a password, also in its query."""
    found = re.fullmatch(r"([\w+.-]+://)(.*)@(.*)", uri, flags=re.DOTALL)
    bare = f"{found[1]}{found[2].partition(':')[0]}@{found[3]}" if found else uri
    return without_secret_items(bare)


def with_password(uri: str) -> str:
    """The inverse of `without_password` where ``MLFLOW_TRACKING_URI`` is the same address whole, else the address.

    No password is kept with a sweep, so going on with it takes the password from the environment; as MLflow does, from
    ``MLFLOW_TRACKING_PASSWORD``, and PostgreSQL's driver, from ``PGPASSWORD``.
    """
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    return known if known and without_password(known) == uri else uri
