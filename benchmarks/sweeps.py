"""What a sweep costs beside the training itself: python -m benchmarks.sweeps --help."""

from __future__ import annotations

import argparse
import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any
from unittest import mock

import alignray as ar
from alignray.checkpoint import Checkpoint
from alignray.data import Panel
from alignray.search import SearchConfig
from alignray.sweep import Manifest, ResourceConfig, SchedulerConfig, Silent, Snapshot, place, ray_cluster, run_search
from alignray.sweep.trainable import TrialTrainable
from alignray.tracking import start_tracker, wait_until_written
from alignray.trial import RecordingReporter, TrialConfig, run_trial
from benchmarks import machine
from benchmarks.markdown import table

_PACKAGES = ("alignray", "ray", "optuna", "mlflow", "torch")
_COST = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
_WITHOUT_REUSE = 5
"""Trials of the plain function: each starts a process, which takes seconds."""
_STRENGTH, _RATE = "cost.soft_l1.strength", "training.optimiser.learning_rate"
_SPACE = ar.Space({_STRENGTH: ar.Float(0.005, 0.1, log=True), _RATE: ar.Float(5e-4, 5e-2, log=True)})


def sweep_of(trial: TrialConfig, *, trials: int, **changes: Any) -> ar.SweepConfig:
    """A sweep of one arm over a strength and the learning rate, whose trials all go to their ends."""
    search = SearchConfig(trials=trials, sampler="random", initial_points=1)
    defaults: dict[str, Any] = {"search": search, "scheduler": SchedulerConfig(name="fifo"), "arms": (trial.objective,)}
    return ar.SweepConfig(
        template="benchmark", trial=trial, space=_SPACE, holdout=ar.HoldoutConfig(eras=6), **(defaults | changes)
    )


def trial_of(**training: Any) -> TrialConfig:
    """A trial of a linear model."""
    return TrialConfig(
        objective="mse",
        cost=_COST,
        scoring=ar.ScoringConfig(cost=_COST, metric="corr"),
        model=ar.ModelConfig(family="linear"),
        training=ar.TrainingConfig(**training),
        split=ar.SplitConfig(folds=1, embargo=2),
        members=1,
    )


class Watch(Silent):
    """Notes when trials ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def update(self, snapshot: Snapshot) -> None:
        """See `Progress.update`."""
        self.ends += [time.monotonic()] * (snapshot.ended - len(self.ends))


class Searched:
    """A search phase that was run: real studies, tracker, MLflow store and Tune, in a folder of its own.

    Attributes:
        seconds: Its wall-clock time, without the cluster's start.
        written_s: The same, and until MLflow holds everything.
        ends: When each trial ended, in seconds since the start.
        tracker_s: What the tracker's process used of a processor.
        epochs_s: What the epochs of each trial took.
        curves: The best validation score after each epoch, by trial.
    """

    def __init__(self, sweep: ar.SweepConfig, panel: Panel) -> None:
        with tempfile.TemporaryDirectory() as home:
            folder, watch = Path(home), Watch()
            manifest = Manifest.of("benchmark", sweep, panel, f"sqlite:///{home}/mlflow.db")
            split = sweep.split(panel.num_eras)
            searched = panel.cut(0, split.holdout.start - sweep.trial.split.embargo)
            placed = place({"searched": searched}, folder / "shards", Silent())["searched"]
            tracker = start_tracker(folder / "spool", manifest.tracking_uri, manifest.id, limit_bytes=1 << 30)
            tracker.log.remote([ar.sweep.sweep_start(manifest)])
            assert not wait_until_written(tracker, 600)
            started = time.monotonic()
            studies = run_search(folder, manifest, placed, split.folds, tracker, watch)
            self.seconds = time.monotonic() - started
            left = wait_until_written(tracker, 3600)
            self.written_s = time.monotonic() - started
            assert not left, left
            self.tracker_s = _processor_seconds(tracker)
            self.ends = [end - started for end in watch.ends]
            (study,) = studies.values()
            self.epochs_s = [sum(row.seconds.values()) for row in study.rows()]
            self.curves = [list(curve.values()) for _, curve in sorted(study.curves().items())]
            _kill(tracker)

    def spent(self) -> tuple[float, float, float]:
        """Of a search of one trial at a time; see `_spent`."""
        return _spent(self.ends, self.epochs_s)


def _processor_seconds(actor: Any) -> float:
    import ray

    return float(ray.get(actor.__ray_call__.remote(lambda tracker: time.process_time())))  # noqa: ARG005


def _kill(actor: Any) -> None:
    import ray

    ray.kill(actor)


def _small(quick: bool) -> tuple[Panel, TrialConfig, int]:
    panel = ar.datasets.synthetic(num_eras=40, rows=60, num_features=8, seed=0)
    return panel, trial_of(epochs=5, patience=5), 4 if quick else 40


def overhead(quick: bool) -> str:
    """Seconds a trial that are not its training's: ours, and a plain Tune program's that trains the same trials."""
    panel, trial, trials = _small(quick)
    searched = panel.cut(0, 32)
    resources = ResourceConfig(max_concurrent=1, checkpoint_every=100)
    rows = []
    for _ in range(1 if quick else 3):
        found = {"alignray": Searched(sweep_of(trial, trials=trials, resources=resources), panel).spent()}
        found["function"] = _plain(_plain_function(trial, searched), _WITHOUT_REUSE)
        rows += [
            [name, f"{start:.1f}", f"{epochs:.3f}", f"**{over:.3f}**"] for name, (start, epochs, over) in found.items()
        ]
    return (
        f"### Time over the training itself\n\n{trials} trials of {trial.training.epochs} epochs of a linear model, "
        "one at a time. alignray: studies, tracking in MLflow, checkpoints; the other: Tune alone with a function, "
        "without these and with its loggers off.\n\n"
        + table(["engine", "until the first trial has ended s", "a trial's epochs s", "over them a trial s"], rows)
    )


def _spent(ends: list[float], epochs_s: list[float]) -> tuple[float, float, float]:
    """Until the first trial ended, and of each after it, the seconds of its epochs and those over them.

    Args:
        ends: When the trials ended, one after the other, since the start.
        epochs_s: What the epochs of each took.
    """
    trained = sum(epochs_s[1:]) / (len(ends) - 1)
    return ends[0], trained, (ends[-1] - ends[0]) / (len(ends) - 1) - trained


def _plain(trainable: Any, trials: int) -> tuple[float, float, float]:
    """The same of plain Tune; see `_spent`."""
    from ray import tune

    with tempfile.TemporaryDirectory() as home:
        started = time.time()  # the ends are told by other processes, by the same clock
        results = tune.Tuner(
            tune.with_resources(trainable, {"cpu": 1}),
            param_space={_RATE: tune.loguniform(5e-4, 5e-2)},
            tune_config=tune.TuneConfig(num_samples=trials, max_concurrent_trials=1),
            run_config=tune.RunConfig(storage_path=home, verbose=0),
        ).fit()
    metrics = sorted((result.metrics for result in results), key=lambda told: told["now"])
    return _spent([told["now"] - started for told in metrics], [told["trained_s"] for told in metrics])


def _plain_function(trial: TrialConfig, panel: Panel) -> Any:
    from ray import tune

    def train(config: Mapping[str, float]) -> None:
        seconds = 0.0

        class Report:
            def report(self, epoch: int, metrics: Mapping[str, float]) -> None:  # noqa: ARG002
                nonlocal seconds
                seconds += metrics["time/epoch_s"]
                tune.report({"score": metrics["val/corr"], "trained_s": seconds, "now": time.time()})

        run_trial(ar.configuration.replace_at(trial, dict(config)), panel, Report())

    return train


class NoTrial:
    """Trains nothing, and reports as many metrics as a trial of an ordinary template does."""

    metric = "val/corr"

    def __init__(self, epochs: int, metrics: Mapping[str, float]) -> None:
        self.epoch, self._epochs, self.best = 0, epochs, dict(metrics)

    @property
    def finished(self) -> bool:
        """See `Trial.finished`."""
        return self.epoch >= self._epochs

    def step(self) -> dict[str, float]:
        """See `Trial.step`."""
        self.epoch += 1
        self.best[self.metric] = 1 - 1 / self.epoch
        return dict(self.best)

    def checkpoint(self) -> Checkpoint:
        """See `Trial.checkpoint`."""
        return Checkpoint({}, {"epoch": self.epoch})


def _no_trials(metrics: Mapping[str, float]) -> Any:
    class NoTraining(TrialTrainable):
        def _begin(self, config: Mapping[str, Any]) -> None:
            self._proposal = config["proposal"]
            self._trial = NoTrial(self._context.base.config.training.epochs, metrics)  # type: ignore[assignment]

    return NoTraining


def throughput(quick: bool) -> str:
    """Results a second from end to end, the driver's memory, and whether late trials cost more than early ones."""
    trials, epochs, block = (100, 20, 20) if quick else (1000, 20, 100)
    panel, trial, _ = _small(quick)
    told = RecordingReporter()
    run_trial(replace(trial, training=replace(trial.training, epochs=1)), panel.cut(0, 32), told)
    metrics = told.history[1]
    sweep = sweep_of(
        replace(trial, training=replace(trial.training, epochs=epochs)),
        trials=trials,
        resources=ResourceConfig(checkpoint_every=5),
    )
    with mock.patch("alignray.sweep.trainable.TrialTrainable", _no_trials(metrics)):
        Searched(replace(sweep, search=replace(sweep.search, trials=4)), panel)  # imports, the first pages
        before, used = machine.reset_peak(), time.process_time()
        found = Searched(sweep, panel)
        used = time.process_time() - used
    grown = (machine.resident("VmHWM") - before) / 2**20
    results = trials * epochs
    first, last = found.ends[block - 1] - found.ends[0], found.ends[-1] - found.ends[-block]
    return (
        f"### Throughput\n\n{trials:,} trials × {epochs} results of {len(metrics)} metrics each, no training, "
        f"checkpoints every 5 epochs, all in MLflow on SQLite; first and last {block} trials.\n\n"
        + table(
            [
                "search s",
                "until MLflow has all s",
                "results/s",
                "driver's CPU ms/result",
                "tracker's",
                "driver's memory MiB",
                "first s",
                "last s",
                "last/first",
            ],
            [
                [
                    f"{found.seconds:.1f}",
                    f"{found.written_s:.1f}",
                    f"**{results / found.written_s:.0f}**",
                    f"{1e3 * used / results:.2f}",
                    f"{1e3 * found.tracker_s / results:.2f}",
                    f"**{grown:.0f}**",
                    f"{first:.1f}",
                    f"{last:.1f}",
                    f"**{last / first:.2f}**",
                ]
            ],
        )
    )


def workers(quick: bool) -> str:
    """Two workers against one, on the same trials."""
    panel = ar.datasets.synthetic(num_eras=60, rows=500, num_features=20, seed=0)
    trial = replace(trial_of(epochs=8, patience=8), objective="aligned", members=2)
    trials = 6 if quick else 24
    rows = []
    one, two = (
        Searched(sweep_of(trial, trials=trials, resources=ResourceConfig(max_concurrent=count)), panel)
        for count in (1, 2)
    )
    for what, seconds in (
        ("the whole search", lambda found: found.seconds),
        ("from the end of the first trial to that of the last", lambda found: found.ends[-1] - found.ends[0]),
    ):
        rows.append([what, f"{seconds(one):.1f}", f"{seconds(two):.1f}", f"**{seconds(one) / seconds(two):.2f}×**"])
    return f"### Workers\n\n{trials} trials of {trial.training.epochs} epochs.\n\n" + table(
        ["", "one worker s", "two workers s", "ratio"], rows
    )


def search(quick: bool) -> str:
    """ASHA with TPE against random search without stopping: the epochs until both have the same validation score."""
    panel = ar.datasets.synthetic(num_eras=60, rows=200, num_features=16, seed=0)
    epochs, trials, seeds = (8, 6, 1) if quick else (16, 24, 5)
    trial = replace(trial_of(epochs=epochs, patience=epochs), model=ar.ModelConfig(width=16))
    rows = []
    for seed in range(seeds):
        config = SearchConfig(trials=trials, sampler="random", initial_points=1, seed=seed)
        one = ResourceConfig(max_concurrent=1)
        random = _course(Searched(sweep_of(trial, trials=trials, search=config, resources=one), panel))
        config = replace(config, sampler="tpe", trials=3 * trials, initial_points=4)
        asha = SchedulerConfig(name="asha", grace_epochs=2)
        halved = _course(Searched(sweep_of(trial, search=config, trials=trials, scheduler=asha, resources=one), panel))
        goal = min(max(random), max(halved[: len(random)]))
        took = [next(index + 1 for index, best in enumerate(course) if best >= goal) for course in (random, halved)]
        bests = (max(random), max(halved[: len(random)]))
        cells = [f"{value:.4f}" for value in (goal, *bests)]
        rows.append([str(seed), *cells, *map(str, took), f"{took[0] / took[1]:.2f}×"])
    return (
        f"### ASHA with TPE against random search\n\n{trials} random trials of {epochs} epochs; the other search is "
        "cut where it has spent as many epochs. The goal is the lesser of the two bests, so each search reaches it.\n\n"
        + table(["seed", "goal", "random best", "ASHA + TPE best", "random epochs", "ASHA + TPE epochs", "ratio"], rows)
    )


def _course(found: Searched) -> list[float]:
    """The best validation score after each epoch that was spent, in the order of the trials: one ran at a time."""
    course: list[float] = []
    for score in chain.from_iterable(found.curves):
        course.append(max([score, *course[-1:]]))
    return course


_PARTS: dict[str, Callable[[bool], str]] = {
    "overhead": overhead,
    "throughput": throughput,
    "workers": workers,
    "search": search,
}


@contextmanager
def _cluster() -> Iterator[None]:
    with ray_cluster(None):
        logging.getLogger("alembic").setLevel(logging.WARNING)
        yield


def main() -> None:
    """Measure what is asked for, and print a table each."""
    options = _options()
    size = "Small sizes: whether it runs." if options.quick else "Full size."
    print(f"{machine.described(_PACKAGES)} {os.cpu_count()} cores of the cluster. {size}\n", flush=True)
    with machine.watched(), _cluster():
        for name in options.parts:
            print(f"{_PARTS[name](options.quick)}\n", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.sweeps", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see whether it runs")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to measure (all)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
