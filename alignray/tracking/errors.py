"""What MLflow's errors mean: it is away, it refuses a value, or it refuses us."""

from __future__ import annotations

import errno
import re

from alignray.errors import WorkError
from alignray.tracking.secrets import without_secrets

# Of HTTP's client errors, those that are not about the request's content: they pass, or an administrator ends them.
_PASSING = (401, 403, 408, 409, 423, 425, 429)
_NO_VALUE_S_FAULT = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE)
_UNWELCOME = re.compile(  # what databases say; PostgreSQL, MySQL, SQL Server, SQLite
    r"password authentication failed|no password supplied|role .* does not exist|database .* does not exist"
    r"|permission denied|access denied|login failed|unknown database|unable to open database file"
    r"|readonly database|read-only|file is not a database|out-of-date database schema",
    flags=re.IGNORECASE,
)


class StoreError(WorkError):
    """The MLflow store cannot be written to until somebody sees to it."""


def is_refusal(error: Exception) -> bool:
    """Whether what was sent is at fault: sent again, it would be refused again."""
    if isinstance(error, StoreError | ConnectionError | TimeoutError | MemoryError):
        return False
    status = _http_status(error)
    if status is not None:
        return 400 <= status < 500 and status not in _PASSING
    if isinstance(error, OSError) and error.errno in _NO_VALUE_S_FAULT:
        return False
    return type(error).__module__.split(".")[0] not in ("requests", "urllib3", "sqlalchemy", "sqlite3")


def is_unwelcome(error: Exception) -> bool:
    """Whether the store is there, and lets us write nothing: a wrong password, no permission, another schema."""
    from sqlalchemy.exc import ArgumentError

    status = _http_status(error)
    if status in (401, 403) or isinstance(error, StoreError | ImportError | ArgumentError):  # SQLAlchemy's: no dialect
        return True
    return bool(_UNWELCOME.search(str(error))) or is_refusal(error)


def one_line(error: Exception) -> str:
    """An error in a line without secrets."""
    first = str(error).strip().splitlines()[0] if str(error).strip() else ""
    return without_secrets(f"{type(error).__name__}: {first}")


def _http_status(error: Exception) -> int | None:
    """The status of an answer; None where there was none, or where it came from no server."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError

    if isinstance(error, HTTPError):
        return error.response.status_code if error.response is not None else None
    return int(error.get_http_status_code()) if isinstance(error, MlflowException) else None  # type: ignore[no-untyped-call]
