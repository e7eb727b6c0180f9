"""What a benchmark says about the machine it ran on."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path


def described(packages: Iterable[str]) -> str:
    """One line: the processor, the memory, and the versions of Python and of some packages."""
    cpus = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    versions = ", ".join(f"{name} {_version(name)}" for name in packages)
    return (
        f"{cpus[0] if cpus else platform.machine()}, {cores()} cores, {memory:.0f} GiB; "
        f"Python {platform.python_version()}, {versions}."
    )


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0))


@contextmanager
def watched() -> Iterator[None]:
    """Say at the end how long it took, and how much of the machine others used meanwhile."""
    started, others = time.monotonic(), _seconds_of_others()
    yield
    passed = time.monotonic() - started
    shared = (_seconds_of_others() - others) / passed
    print(f"{passed:.0f} seconds, in which other processes used {shared:.2f} cores in the mean.")


def resident(entry: str) -> int:
    """``VmRSS``, what this process holds in memory, or ``VmHWM``, the most that it has held, in bytes (Linux).

    Not what getrusage says: that counts what its parent held too.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in status if line.startswith(f"{entry}:"))


def reset_peak() -> int:
    """Give freed memory back, and let ``VmHWM`` start from what is held now, which is returned."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def _seconds_of_others() -> float:
    """Processor seconds that were used since the machine started, but for this process and its ended children."""
    user, nice, system, _, _, *interrupts = (int(ticks) for ticks in _lines("/proc/stat")[0].split()[1:8])
    own = os.times()
    busy = (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK")
    return busy - (own.user + own.system + own.children_user + own.children_system)


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "from a checkout" if package == "alignray" else "not installed"
