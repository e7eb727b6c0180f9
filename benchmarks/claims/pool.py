"""Work on all cores, one thread to a process, with results that do not depend on how many there are."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")

_REPORTS = 20
"""How often at most it is said how far some jobs are."""


class Pool:
    """A process for each core, started when it is first needed."""

    def __init__(self, processes: int) -> None:
        self._executor = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=torch.set_num_threads, initargs=(1,)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(cancel_futures=True)

    def map(self, work: Callable[[Job], Result], jobs: Sequence[Job], what: str) -> list[Result]:
        """The results of some jobs, in the order of the jobs; how far it is goes to stderr.

        Args:
            work: A function of a module.
            jobs: Its arguments.
            what: What the jobs are.
        """
        results, started = [], time.monotonic()
        for result in self._executor.map(work, jobs):
            results.append(result)
            if len(results) % -(-len(jobs) // _REPORTS) == 0:
                say(f"{what}: {len(results)} of {len(jobs)}, {time.monotonic() - started:.0f} s")
        return results


def say(words: str) -> None:
    """What is being done, apart from the report."""
    print(words, file=sys.stderr, flush=True)
