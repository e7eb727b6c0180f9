"""Work that is done in a thread while the caller uses what was done before."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar, cast

T = TypeVar("T")

_END = object()


def ahead(items: Iterable[T]) -> Generator[T, None, None]:
    """The same items in the same order; the next is made in a thread while the caller uses the current one.

    At most one is made ahead, and of those that the caller has let go none is kept. What goes wrong in the thread is
    raised where the item is asked for. The thread ends with the generator: when it is exhausted, closed, or collected.
    """
    iterator = iter(items)
    with ThreadPoolExecutor(1, thread_name_prefix="alignray-ahead") as pool:
        coming = pool.submit(next, iterator, _END)
        while (item := coming.result()) is not _END:
            coming = pool.submit(next, iterator, _END)
            yield cast("T", item)
            del item
