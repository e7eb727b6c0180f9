"""What of a sweep saturates on a large cluster, by simulation: python -m benchmarks.scaling --help."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest import mock

import alignray as ar
from alignray.search import SearchConfig
from alignray.sweep import Manifest, ResourceConfig, SchedulerConfig, SweepConfig
from alignray.trial import RecordingReporter, run_trial
from benchmarks import machine
from benchmarks.markdown import table
from benchmarks.simulation import Cluster, Simulation, Told
from benchmarks.sweeps import sweep_of, trial_of
from tests.postgres import Postgres, running_postgres, why_no_postgres
from tests.tracking.servers import PASSWORD, MlflowServer

_PACKAGES = ("alignray", "ray", "optuna", "mlflow", "SQLAlchemy", "psycopg")
_ARMS = ("aligned", "mse")
_EPOCHS = 20
_TRIALS = {10: 50, 100: 250, 1000: 750}
"""Trials of each arm, by workers."""


@dataclass(frozen=True, slots=True)
class Stores:
    """Where a sweep keeps what it must not forget.

    Attributes:
        studies: ``search.storage``; None for the journal.
        mlflow: The MLflow store.
        databases: The PostgreSQL databases among them.
    """

    studies: str | None
    mlflow: str
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Size:
    """What a sweep left behind, in bytes.

    Attributes:
        studies: The studies.
        mlflow: MLflow's database.
        memory: How far the peak memory of the process rose, in which driver and tracker are one.
    """

    studies: int
    mlflow: int
    memory: int


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser("python -m benchmarks.scaling", description=__doc__)
    parser.add_argument("--workers", nargs="+", type=int, default=list(_TRIALS), help="sizes of the cluster (all)")
    parser.add_argument("--stores", nargs="+", choices=_STORES, default=list(_STORES), help="where records go (all)")
    parser.add_argument("--epoch-s", type=float, default=Cluster(workers=1).epoch_s, help="an epoch's seconds (30)")
    parser.add_argument("--processor-time", action="store_true", help="take processor time for time: on a busy machine")
    parser.add_argument("--smoke", action="store_true", help="a small sweep: to see whether it runs")
    options = parser.parse_args()
    clock = time.process_time if options.processor_time else time.monotonic
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    print(machine.described(_PACKAGES), flush=True)
    with machine.watched():
        for name in options.stores:
            print(f"\n### {_STORES[name].__doc__}\n")
            if name != "files" and (why := why_no_postgres()):
                print(f"Left out: {why}.")
                continue
            print(table(_HEADER, []), flush=True)
            for workers in options.workers:
                cluster = Cluster(workers=workers, epoch_s=options.epoch_s)
                trials = 6 if options.smoke else _TRIALS.get(workers, workers)
                row = _row(cluster, *_measured(name, cluster, trials, clock))
                print(f"| {' | '.join(row)} |", flush=True)


def _measured(
    name: str, cluster: Cluster, trials: int, clock: Callable[[], float] = time.monotonic
) -> tuple[SweepConfig, Told, Size]:
    """A sweep on the simulated cluster, in a folder of its own."""
    panel, metrics = _panel_and_metrics()
    with tempfile.TemporaryDirectory() as home, _STORES[name](Path(home)) as stores:
        folder = Path(home) / "runs" / "scaling"
        (folder / "tune").mkdir(parents=True)
        sweep = _sweep(trials, stores.studies)
        manifest = Manifest.of("scaling", sweep, panel, stores.mlflow)
        before = machine.reset_peak()
        simulation = Simulation(cluster, folder, manifest, stores.mlflow, metrics, clock)
        told = simulation.run()
        memory = machine.resident("VmHWM") - before
        ended = sum(row.state != "running" for study in simulation.studies.values() for row in study.rows())
        assert ended == sum(told.states.values()) == trials * len(_ARMS), told.states
        return sweep, told, Size(*_sizes(stores, folder), memory)


def _sweep(trials: int, storage: str | None) -> SweepConfig:
    trial = trial_of(epochs=_EPOCHS, patience=_EPOCHS)
    search = SearchConfig(trials=trials, storage=storage, lag=0)
    scheduler, resources = SchedulerConfig(name="asha"), ResourceConfig(checkpoint_every=5)
    return sweep_of(trial, trials=trials, arms=_ARMS, search=search, scheduler=scheduler, resources=resources)


def _panel_and_metrics() -> tuple[ar.Panel, Mapping[str, float]]:
    """What an epoch of a real trial reports."""
    panel, told = ar.datasets.synthetic(num_eras=40, rows=60, num_features=8, seed=0), RecordingReporter()
    trial = trial_of(epochs=1)
    run_trial(replace(trial, objective="aligned"), panel.cut(0, 32), told)
    return panel, told.history[1]


_HEADER = (
    "workers",
    "trials",
    "results",
    "lost workers",
    "search h",
    "workers busy %",
    "results/s",
    "driver busy %",
    "ms a result",
    "ms a proposal: first, last",
    "longest queue",
    "MLflow's writer busy %",
    "MLflow behind at the end s",
    "waits for MLflow, at most MB",
    "memory MiB",
    "studies MB",
    "MLflow MB",
)


def _row(cluster: Cluster, sweep: SweepConfig, told: Told, size: Size) -> Sequence[str]:
    proposing, tenth = sum(told.proposals_s), max(len(told.proposals_s) // 10, 1)
    first, last = (statistics.median(some) for some in (told.proposals_s[:tenth], told.proposals_s[-tenth:]))
    return (
        f"{cluster.workers:,}",
        f"{sweep.search.trials * len(sweep.arms):,}",
        f"{told.results:,}",
        str(told.lost),
        f"{told.seconds / 3600:.2f}",
        f"{100 * told.trained_s / (cluster.workers * told.seconds):.0f}",
        f"{told.results / told.seconds:.1f}",
        f"{100 * told.driver.busy_s / told.seconds:.1f}",
        f"{1e3 * (told.driver.busy_s - proposing) / told.results:.2f}",
        f"{1e3 * first:.0f}, {1e3 * last:.0f}",
        f"{told.driver.longest:,}",
        f"{100 * told.writer.busy_s / told.seconds:.1f}",
        f"{told.behind_s:.0f}",
        f"{told.unwritten / 1e6:.2f}",
        f"{size.memory / 2**20:.0f}",
        f"{size.studies / 1e6:.1f}",
        f"{size.mlflow / 1e6:.1f}",
    )


@contextlib.contextmanager
def _files(home: Path) -> Iterator[Stores]:
    """Studies in the journal, MLflow on SQLite."""
    yield Stores(None, f"sqlite:///{home}/mlflow.db")


@contextlib.contextmanager
def _databases(home: Path) -> Iterator[Stores]:  # noqa: ARG001
    """Studies and MLflow in PostgreSQL."""
    with _postgres() as server:
        studies, mlflow = (server.url.replace("/alignray", f"/{name}") for name in ("studies", "mlflow"))
        yield Stores(studies, mlflow.replace("postgresql:", "postgresql+psycopg:"), (studies, mlflow))


@contextlib.contextmanager
def _server(home: Path) -> Iterator[Stores]:
    """Studies in PostgreSQL, MLflow a server with a password before PostgreSQL."""
    with _databases(home) as stores:
        server = MlflowServer(home, stores.mlflow, authenticated=True)
        server.start()
        known = {"MLFLOW_TRACKING_USERNAME": "admin", "MLFLOW_TRACKING_PASSWORD": PASSWORD}
        try:
            with mock.patch.dict(os.environ, known):
                yield replace(stores, mlflow=server.uri)
        finally:
            server.kill()


_STORES = {"files": _files, "databases": _databases, "server": _server}


@contextlib.contextmanager
def _postgres() -> Iterator[Postgres]:
    """A server with two empty databases: Optuna and MLflow each want one of their own."""
    import psycopg

    from alignray.search import storage

    with running_postgres() as server, mock.patch.dict(os.environ, {"PGPASSWORD": server.password}):
        with psycopg.connect(server.url, autocommit=True) as connection:
            for name in ("studies", "mlflow"):
                connection.execute(f"CREATE DATABASE {name}")
        yield server
        storage._open_postgres.cache_clear()


def _sizes(stores: Stores, folder: Path) -> tuple[int, int]:
    """The bytes of the studies and of MLflow's database."""
    if not stores.databases:
        return (folder / "optuna.journal").stat().st_size, Path(stores.mlflow.removeprefix("sqlite:///")).stat().st_size
    import psycopg

    sizes = []
    for url in stores.databases:
        with psycopg.connect(url) as connection:
            (size,) = connection.execute("SELECT pg_database_size(current_database())").fetchone() or (0,)
            sizes.append(int(size))
    return sizes[0], sizes[1]


if __name__ == "__main__":
    main()
