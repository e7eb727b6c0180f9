"""What a benchmark says about the machine it ran on."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections.abc import Iterable
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


def seconds_of_others() -> float:
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
