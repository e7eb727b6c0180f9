"""Databases that hold an MLflow store: a new SQLite file, made whole or not at all; a connection to another one."""

from __future__ import annotations

import contextlib
import logging
import os
import uuid
from pathlib import Path

from mlflow import MlflowClient
from sqlalchemy import create_engine
from sqlalchemy.engine import make_url


def make_store(uri: str) -> None:
    """Make the store if it is a SQLite file that is not there yet.

    MLflow makes its tables one by one. A store that a crash left half made would never work again, and two sweeps that
    begin together would both make it; so it is made under another name, and gets its own when it is whole.
    """
    if not uri.startswith("sqlite"):
        return
    url = make_url(uri)
    if url.database in (None, "", ":memory:") or url.query:
        return
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)  # that it makes its tables is no news
    path = Path(str(url.database))
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex}.partial")  # MLflow remembers a store by its name
    try:
        MlflowClient(url.set(database=str(partial)).render_as_string()).search_experiments(max_results=1)
        try:
            os.link(partial, path)
        except FileExistsError:
            pass  # somebody else was quicker
        except OSError:
            partial.replace(path)  # a file system without links
    finally:
        partial.unlink(missing_ok=True)


def require_connection(uri: str) -> None:
    """Connect to the database once, if the store is one. MLflow itself would try for minutes, whatever it is told.

    Raises:
        Exception: The database's driver says why not.
    """
    if uri.startswith(("http", "databricks", "sqlite")):
        return
    engine = create_engine(uri)
    try:
        engine.connect().close()
    finally:
        engine.dispose()


def drop_connections(uri: str) -> None:
    """Let go of a database's connections: SQLite's stay read-only for good where the file was so at first."""
    if uri.startswith(("http", "databricks")):
        return
    with contextlib.suppress(Exception):  # there are none where the database is away
        MlflowClient(uri)._tracking_client.store.engine.dispose()
