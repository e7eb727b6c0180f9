"""Whether an MLflow store lets us write, asked once, before a sweep begins."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Mapping

from alignray.errors import SweepError
from alignray.tracking.errors import is_unwelcome, one_line
from alignray.tracking.uri import EXPERIMENT, without_password

_BRIEFLY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


def require_access(uri: str) -> str:
    """See whether a store takes what we write.

    Returns:
        Empty if it does; what keeps it if it is away, which a sweep outlives.

    Raises:
        SweepError: It is there and will never take anything: a wrong password, no permission, no driver, no MLflow.
    """
    from alignray.tracking.store import require_connection
    from alignray.tracking.writer import MlflowWriter

    with _environment(_BRIEFLY), _silence("mlflow", "alembic"):
        try:
            require_connection(uri)
            MlflowWriter(uri, EXPERIMENT, "").require_writable()
        except Exception as error:  # whatever MLflow and the databases' drivers throw
            if is_unwelcome(error):
                raise SweepError(
                    f"MLflow at {without_password(uri)}: expected a store that lets us write, got {one_line(error)}; "
                    f"{_hint(uri, error)}"
                ) from error
            return one_line(error)
    return ""


def _hint(uri: str, error: Exception) -> str:
    if isinstance(error, ImportError):
        return "install the database's driver; PostgreSQL's is in 'alignray[postgres]'"
    if uri.startswith("http"):
        return "see to MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (or _TOKEN), and to the address"
    if uri.startswith("sqlite"):
        return "choose another --tracking-uri, or make the file writable"
    return "see to the user and the password in MLFLOW_TRACKING_URI (or PGPASSWORD), and to the user's permissions"


@contextlib.contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextlib.contextmanager
def _silence(*names: str) -> Iterator[None]:
    """What MLflow would log of an error, traceback and all, is said in one line by whoever catches it."""
    levels = {name: logging.getLogger(name).level for name in names}
    for name in levels:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
