"""Where studies are kept: a journal file that is only ever appended to, so a crash costs at most its last line."""

from __future__ import annotations

import os
from pathlib import Path

from optuna.storages import BaseStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock


def open_storage(journal: Path) -> BaseStorage:
    """The storage in a journal file, which is created where it is not there."""
    _drop_unfinished_line(journal)
    return JournalStorage(JournalFileBackend(str(journal)))


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
