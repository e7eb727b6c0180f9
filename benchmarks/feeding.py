"""What it costs to feed a panel to workers and to a training loop: python -m benchmarks.feeding --help."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import gc
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch

from alignray.costs import FactorPenalty, Quadratic, SoftL1
from alignray.data import Loader, Panel, Schema, Shard, open_shards, write_shards
from alignray.models import ModelConfig
from alignray.objectives import objective
from alignray.solver import SolverLayer
from alignray.sweep.placement import OnDisk, Placed, place
from alignray.sweep.progress import Silent
from alignray.training import EpochStats, Members, Trainer, TrainingConfig
from benchmarks import machine
from benchmarks.markdown import table
from benchmarks.solver.problem import Problem

_PARTS = ("decode", "loop", "workers")
_PACKAGES = ("alignray", "torch", "numpy", "pyarrow", "ray")
_ROWS, _FEATURES, _ACTIVE = 5000, 420, 400
_MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Size:
    """How much is measured.

    Attributes:
        workers: Ray workers.
        panel: The bytes of the panel that they read.
        eras: Training eras of an epoch.
        eras_per_batch: Eras of a step.
        repeats: Timed epochs, and batches.
    """

    workers: int
    panel: int
    eras: int
    eras_per_batch: int
    repeats: int


_FULL = Size(workers=8, panel=1000 * _MB, eras=16, eras_per_batch=4, repeats=3)
_QUICK = Size(workers=2, panel=60 * _MB, eras=4, eras_per_batch=2, repeats=2)


def main() -> None:
    """Measure what the command line asks for, and print each table once it is there."""
    parser = argparse.ArgumentParser("python -m benchmarks.feeding", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a small panel, 2 workers: to see whether it runs")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (all)")
    parser.add_argument("--threads", type=int, help="torch's threads (its own choice)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    size = _QUICK if options.quick else _FULL
    print(f"{machine.described(_PACKAGES)}\n\n{torch.get_num_threads()} threads of torch.\n", flush=True)
    with machine.watched():
        for part, measure in (("decode", decode), ("loop", loop), ("workers", workers)):
            if part in options.parts:
                print(f"### {str(measure.__doc__).rstrip('.')}\n\n{measure(size)}\n", flush=True)


def decode(size: Size) -> str:
    """Codes of 5,000 × 420 to a batch."""
    panel = _panel(8)
    rows = []
    for eras in (1, 4, 8):
        features = panel.batch(range(eras)).features.numpy()
        made = _median(lambda eras=eras: panel.batch(range(eras)), 4 * size.repeats)
        copied = _median(features.copy, 4 * size.repeats)
        rows.append([str(eras), f"{1e3 * made:.2f}", f"{1e3 * copied:.2f}", f"**{made / copied:.2f}**"])
    return table(["eras", "batch ms", "a copy of its features ms", "ratio"], rows)


def loop(size: Size) -> str:
    """An epoch of the aligned objective at 5,000 × 420."""
    panel = _panel(size.eras)
    config = TrainingConfig(eras_per_batch=size.eras_per_batch, warmup_epochs=1)
    members = Members(ModelConfig(), _FEATURES, [0], torch.device("cpu"))

    def trainer(s: float) -> Trainer:
        cost = Quadratic(1.0) + SoftL1(s) + FactorPenalty(0.5)  # of features ±√2: what 1 is to those of ±1
        return Trainer(config, members, objective("aligned", SolverLayer(cost)), panel, range(size.eras), seed=0)

    trainer(1.0).run_epoch(0)  # the warm-up needs no solver
    s, state = _strength(members, panel), members.state()
    found: dict[str, list[EpochStats]] = {}
    for name, kind in (("ahead, in a thread", Loader), ("when they are asked for", _Inline)) * size.repeats:
        members.load(state)
        with mock.patch("alignray.training.trainer.Loader", kind):
            found.setdefault(name, []).append(trainer(s).run_epoch(1))
    assert len({stats.loss for epochs in found.values() for stats in epochs}) == 1, "the batches differ"
    rows = [[name, *_shares(epochs)] for name, epochs in found.items()]
    how = f"{size.eras} eras, {size.eras_per_batch} a step, 1 member; medians of {size.repeats} epochs each, in turn."
    return f"{how}\n\n{table(['batches are made', 'epoch s', 'waiting for batches', 'solver'], rows)}"


def workers(size: Size) -> str:
    """Workers that read every era of one panel."""
    import ray

    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    eras = max(2, size.panel // (_ROWS * (_FEATURES + 36)))
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = open_shards(write_shards(_panel(8), folder / "small", eras_per_shard=2))
        options: dict[str, Any] = {"include_dashboard": False, "log_to_driver": False, "logging_level": logging.ERROR}
        room = max(100 * _MB, 2 * size.panel)
        ray.init(address="local", num_cpus=size.workers, object_store_memory=room, **options)
        try:
            for where in ("object store", "shards on disk"):
                readers = [ray.remote(num_cpus=1)(Reader).remote() for _ in range(size.workers)]
                ray.get([reader.read.remote(OnDisk(small.origin)) for reader in readers])  # imports, first pages
                base = _Memory.now(ray.get([reader.settled.remote() for reader in readers]))
                placed, held = _placed(where, eras, folder)
                seconds = ray.get([reader.read.remote(placed) for reader in readers])
                after = _Memory.now(ray.get([reader.settled.remote() for reader in readers]))
                rows.append([where, *after.growth_since(base, held, seconds)])
                for reader in readers:
                    ray.kill(reader)
                del placed
        finally:
            ray.shutdown()
    header = ["the panel lies in", "panel MB", "worker base MB", "node growth MB", "× panel", "meminfo growth MB"]
    return table([*header, "private growth a worker MB", "of the panel", "s to read"], rows)


class Reader:
    """A Ray worker that fetches a panel and reads it through a loader, as a trial does."""

    def read(self, placed: Placed) -> float:
        """Make a batch of each era, once; the seconds that took. The panel is kept, as a trial keeps it."""
        torch.set_num_threads(1)
        started = time.monotonic()
        self.panel = placed.fetch()
        for _ in Loader(self.panel, [[era] for era in range(self.panel.num_eras)], "cpu"):
            pass
        return time.monotonic() - started

    def settled(self) -> int:
        """The process's number, once it has given back what it holds no longer."""
        _give_back()
        return os.getpid()


@dataclass(frozen=True, slots=True)
class _Memory:
    """What is held at a moment, in bytes: by each worker alone, by all processes together, and by the machine."""

    private: list[int]
    together: int
    machine: int

    @classmethod
    def now(cls, processes: list[int]) -> _Memory:
        _give_back()
        private = [_rollup(process, "Private_Clean", "Private_Dirty") for process in processes]
        # A page that several processes map counts once: each has its share.
        together = sum(_rollup(process, "Pss") for process in _family(os.getpid()))
        return cls(private, together, _meminfo("MemTotal") - _meminfo("MemAvailable"))

    def growth_since(self, base: _Memory, held: int, seconds: Sequence[float]) -> list[str]:
        """The cells of the table, for workers that have since read a panel of so many bytes."""
        own = [now - then for now, then in zip(self.private, base.private, strict=True)]
        together = self.together - base.together
        return [
            f"{held / _MB:.0f}",
            f"{statistics.median(base.private) / _MB:.0f}",
            f"{together / _MB:.0f}",
            f"**{together / held:.2f}**",
            f"{(self.machine - base.machine) / _MB:.0f}",
            f"{statistics.median(own) / _MB:.1f} (at most {max(own) / _MB:.1f})",
            f"**{max(own) / held:.1%}**",
            f"{statistics.median(seconds):.1f}",
        ]


class _Inline(Loader):
    """A loader that makes each batch when it is asked for."""

    def __init__(self, panel: Panel, groups: Iterable[Sequence[int]], device: torch.device) -> None:
        super().__init__(panel, (), device)
        self._batches = (panel.batch(group, device) for group in groups)


def _panel(eras: int) -> Panel:
    """Random codes and targets that the first features know a little of, with names like Numerai's."""
    rng = np.random.default_rng(0)
    N = eras * _ROWS
    codes = rng.integers(0, 5, (N, _FEATURES), np.int8)
    names = tuple(f"feature_{column}" for column in range(_FEATURES))
    schema = Schema(era="era", target="target", id="id", features=names, factors=names, bins=5)
    shard = Shard(
        eras=tuple(f"{era:04d}" for era in range(eras)),
        offsets=_ROWS * np.arange(eras + 1),
        features=codes,
        factors=None,
        target=rng.standard_normal(N, np.float32) + 0.1 * codes[:, :4].sum(1, dtype=np.float32),
        ids=np.char.mod("n%07x", np.arange(N)),
    )
    return Panel(schema, (shard,))


def _placed(where: str, eras: int, folder: Path) -> tuple[Placed, int]:
    """A panel in the object store or on disk, and its bytes; this process keeps none of it."""
    panel = _panel(eras)
    if where == "object store":
        return place({"panel": panel}, folder, Silent())["panel"], panel.nbytes
    opened = open_shards(write_shards(panel, folder / "panel", eras_per_shard=64), verify=False)
    assert opened.origin is not None
    return OnDisk(opened.origin), panel.nbytes


def _strength(members: Members, panel: Panel) -> float:
    """The strength of the L1 that leaves 400 rows of the first era active, under the predictions of the network."""
    with torch.no_grad():
        p = members(panel.batch([0]).features)[0, 0].double().numpy()
    return Problem.of(panel.shards[0].features[:_ROWS], p, p, p, _ACTIVE).s


def _shares(epochs: Sequence[EpochStats]) -> list[str]:
    """The seconds of an epoch, and of them the shares of the loader and of the solver."""
    seconds = [stats.seconds for stats in epochs]
    loader = statistics.median(stats.loader_seconds / stats.seconds for stats in epochs)
    solver = statistics.median(stats.solver_seconds / stats.seconds for stats in epochs)
    spread = f"{statistics.median(seconds):.2f} ({min(seconds):.2f} … {max(seconds):.2f})"
    return [spread, f"**{loader:.1%}**", f"{solver:.1%}"]


def _median(work: Callable[[], object], repeats: int) -> float:
    seconds = []
    for _ in range(repeats):
        started = time.monotonic()
        work()
        seconds.append(time.monotonic() - started)
    return statistics.median(seconds)


def _give_back() -> None:
    """Give freed memory back to the system: what is measured is what is held."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)


def _family(process: int) -> list[int]:
    """A process and all that descend from it: of this one, Ray's own and its workers."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            parents.setdefault(parent, []).append(int(stat.parent.name))
    family = [process]
    for each in family:
        family += parents.get(each, [])
    return family


def _rollup(process: int, *fields: str) -> int:
    """The bytes that the kernel counts for a process under some headings; none if it has ended."""
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.split(":")[0] in fields)
    return 0


def _meminfo(field: str) -> int:
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])


if __name__ == "__main__":
    main()
