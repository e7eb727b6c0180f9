"""Where studies are kept: in a journal file, or in a PostgreSQL database.

The journal is only ever appended to, so a crash costs at most its last line.
"""

from __future__ import annotations

import os
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock

from alignray.errors import ConfigurationError, SweepError, WorkError

if TYPE_CHECKING:
    import psycopg
    import sqlalchemy

_SCHEME = "postgresql"
PATIENCE_S = 60.0
"""How long a database that went away is waited for."""


def require_storage(url: str | None) -> None:
    """Check ``search.storage``.

    Raises:
        ConfigurationError: It is no address of a PostgreSQL database, or has a password in it.
    """
    if url is None:
        return
    parts = urlsplit(url)
    if parts.scheme != _SCHEME or not parts.path.strip("/"):
        raise ConfigurationError(
            f"search.storage: expected postgresql://USER@HOST:PORT/DATABASE, got one of {parts.scheme!r}"
        )
    if parts.password is not None or "password" in parse_qs(parts.query):
        raise ConfigurationError(
            "search.storage: expected an address without a password, as the sweep's manifest and MLflow show it; got "
            "one with. Put the password in the environment variable PGPASSWORD or in ~/.pgpass"
        )


def open_storage(url: str | None, journal: Path) -> BaseStorage:
    """The storage at an address, or where there is none in a journal file; it is created where it is not there.

    Raises:
        SweepError: The database cannot be reached.
    """
    if url is not None:
        return _open_postgres(url)
    _drop_unfinished_line(journal)
    return JournalStorage(JournalFileBackend(str(journal)))


@cache  # one pool of connections a process, whoever looks at the studies
def _open_postgres(url: str) -> RDBStorage:
    import sqlalchemy

    try:
        import psycopg
    except ImportError as error:
        raise SweepError(
            f"search.storage {url!r} needs a driver for PostgreSQL; install it: pip install 'alignray[postgres]'"
        ) from error
    address = url.replace(_SCHEME, f"{_SCHEME}+psycopg", 1)
    try:
        psycopg.connect(url, connect_timeout=10).close()
        storage = RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    except (psycopg.OperationalError, sqlalchemy.exc.OperationalError) as error:
        raise SweepError(f"search.storage {url!r} cannot be reached: {_line(error)}") from error
    sqlalchemy.event.listen(storage.engine, "do_connect", _connect_patiently)
    sqlalchemy.event.listen(storage.engine, "handle_error", _say_that_it_is_lost)
    return storage


def _connect_patiently(
    _dialect: Any, _record: Any, arguments: list[Any], options: dict[str, Any]
) -> psycopg.Connection:
    """Connect again to a database that was there before: it may be restarted, or the network down, for a while.

    A connection that was lost is noticed before it is used (``pool_pre_ping``), so nothing is done twice.
    """
    import psycopg

    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return psycopg.connect(*arguments, **options)
        except psycopg.OperationalError as error:
            if time.monotonic() > deadline:
                raise _lost(error) from error
            time.sleep(0.5)


def _say_that_it_is_lost(context: sqlalchemy.engine.ExceptionContext) -> None:
    if context.is_disconnect and not context.is_pre_ping:  # lost while it was used, which is rare
        context.chained_exception = _lost(context.original_exception)


def _lost(error: BaseException) -> WorkError:
    return WorkError(
        f"the database of search.storage was lost ({_line(error)}); all that it holds is kept, and the sweep goes "
        "on from there when it is resumed"
    )


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _drop_unfinished_line(journal: Path) -> None:
    """Cut off the line that a crash cut short: Optuna would write on behind it, and could read no further."""
    content = journal.read_bytes() if journal.exists() else b""
    if not content or content.endswith(b"\n"):
        return
    lock = JournalFileSymlinkLock(str(journal))  # whoever is writing holds it: what is unfinished under it stays so
    lock.acquire()
    try:
        os.truncate(journal, journal.read_bytes().rfind(b"\n") + 1)
    finally:
        lock.release()
