"""A cluster in simulated time: its workers train nothing; what alignray does for their trials is done, and timed.

The clock jumps from one event to the next, as in Syne Tune's simulator backend (Salinas et al. 2022, Syne Tune: a
library for large scale hyperparameter tuning and reproducible research), and a call of ours takes in simulated time
what it takes here. Ray and Ray Tune are left out: their part is measured by ``benchmarks.sweeps``.
"""

from __future__ import annotations

import heapq
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from ray.tune.schedulers import TrialScheduler

from alignray.checkpoint import CheckpointHistory
from alignray.search import ArmStudy, Proposal
from alignray.sweep import Manifest, Snapshot, sweep_studies
from alignray.sweep.events import run_end, sweep_start, trial_start
from alignray.sweep.log import TrialLog
from alignray.sweep.schedulers import PerArmScheduler
from alignray.sweep.searcher import ArmSearcher
from alignray.tracking import SWEEP_KEY, RunEnd, RunMetrics, Spool
from alignray.tracking.tracker import _BATCH, _GATHER_S
from alignray.tracking.writer import MlflowWriter
from alignray.trial import METRICS, seconds_by_part


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """What the workers of a cluster do, all of it drawn from a seed.

    Attributes:
        workers: How many there are.
        epoch_s: Seconds of an epoch, in the mean; trials differ by half of it or more, epochs of a trial by a tenth.
        start_s: Seconds from a proposal until a worker has begun the trial.
        lost_every_s: Seconds until a worker is lost, in the mean, with its trial, which goes on from its checkpoint.
        back_s: Seconds until there is another in its place.
        failing: The share of trials that fail by themselves.
        seed: Decides all of it.
    """

    workers: int
    epoch_s: float = 30.0
    start_s: float = 2.0
    lost_every_s: float = 12 * 3600.0
    back_s: float = 120.0
    failing: float = 0.01
    seed: int = 0


class Server:
    """Does one thing at a time, in the order in which it is asked to.

    Args:
        clock: By which it takes as long as it takes.

    Attributes:
        free_at: When it has done all that it was asked to, in simulated seconds.
        busy_s: Seconds that it was at work.
        longest: The most that waited at once.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.free_at = self.busy_s = 0.0
        self.longest = 0
        self._ends: deque[float] = deque()

    def does(self, now: float, work: Callable[[], Any]) -> Any:
        """Do it, as soon as all that came before is done; it takes as long as it takes here."""
        while self._ends and self._ends[0] <= now:
            self._ends.popleft()
        started = self.clock()
        result = work()
        took = self.clock() - started
        self.busy_s += took
        self.free_at = max(now, self.free_at) + took
        self._ends.append(self.free_at)
        self.longest = max(self.longest, len(self._ends) - 1)
        return result


@dataclass(slots=True)
class Running:
    """A trial on a worker.

    Attributes:
        id: Tune's name for it.
        proposal: The trial.
        epoch: The last epoch that it was trained.
        lost_at: When its worker is lost.
    """

    id: str
    proposal: Proposal
    epoch: int
    lost_at: float

    @property
    def config(self) -> dict[str, Any]:
        """As Tune's own trial has it, for the scheduler."""
        return {"proposal": self.proposal}


@dataclass(slots=True)
class Told:
    """What a simulated sweep came to. Times are simulated, but for those of single calls.

    Attributes:
        driver: The driver.
        tracker: The part of the tracker that takes events.
        writer: The part that writes them to MLflow.
        seconds: Until the last trial ended.
        behind_s: After that, until MLflow held everything.
        trained_s: Worker-seconds that epochs took, those that a lost worker took with it left out.
        results: Epochs that the driver heard of.
        proposals_s: What each proposal took, in their order.
        lost: Workers lost.
        states: How many trials ended in which way.
        unwritten: The most bytes that waited for MLflow.
    """

    driver: Server
    tracker: Server
    writer: Server
    seconds: float = 0.0
    behind_s: float = 0.0
    trained_s: float = 0.0
    results: int = 0
    proposals_s: list[float] = field(default_factory=list)
    lost: int = 0
    states: dict[str, int] = field(default_factory=dict)
    unwritten: int = 0


class Simulation:
    """A sweep on a simulated cluster: real studies, searcher, scheduler, spool and MLflow store.

    Args:
        cluster: The cluster.
        folder: The sweep's folder.
        manifest: The sweep.
        uri: The MLflow store.
        metrics: What an epoch of a real trial of the sweep reported.
        clock: What the calls of ours are timed by.
    """

    def __init__(
        self,
        cluster: Cluster,
        folder: Path,
        manifest: Manifest,
        uri: str,
        metrics: Mapping[str, float],
        clock: Callable[[], float],
    ) -> None:
        self._cluster, self._folder, self._manifest, self._metrics = cluster, folder, manifest, metrics
        self._dice = random.Random(cluster.seed)
        self.told = Told(Server(clock), Server(clock), Server(clock))
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order, self._ids = count(), count()
        self._alive, self._writing = cluster.workers, False
        self._kept: dict[str, int] = {}
        self._spool = Spool(folder / "spool")
        self._spool.append([sweep_start(manifest)])
        self._writer = MlflowWriter(uri, "scaling", manifest.id)
        self.studies: dict[str, ArmStudy] = sweep_studies(folder, manifest, create=True)
        config = manifest.config
        self._epochs, self._metric = config.trial.training.epochs, config.trial.scoring.metric
        self._searcher = ArmSearcher(
            self.studies,
            trials=config.search.trials,
            metric=self._metric,
            room=lambda: self._alive,
            on_start=lambda proposal: self._spool.append([trial_start(manifest, proposal)]),
            on_setback=lambda proposal, reason: None,  # noqa: ARG005
            on_end=self._on_end,
            on_change=self._on_change,
            history=lambda key: CheckpointHistory(folder / "tune" / "checkpoints" / key, 2),
            max_failures=config.resources.max_failures,
        )
        self._scheduler = PerArmScheduler(
            config.scheduler,
            {arm: {} for arm in self.studies},
            epochs=self._epochs,
            direction=METRICS[self._metric].direction,
        )

    def run(self) -> Told:
        """Run the sweep to its end, and until MLflow has it all."""
        self._at(0.0, self._fill)
        while self._events:
            now, _, happens = heapq.heappop(self._events)
            happens(now)
        self._spool.append([RunEnd(key=SWEEP_KEY, status="FINISHED")])
        self._drain(self.told.writer.free_at)
        while self._events:
            now, _, happens = heapq.heappop(self._events)
            happens(now)
        self.told.behind_s = max(self.told.writer.free_at - self.told.seconds, 0.0)
        return self.told

    def _at(self, when: float, happens: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (when, next(self._order), happens))

    def _fill(self, now: float) -> None:
        """The driver proposes trials until there is no room, and then starts them, as Tune does."""
        begun: list[Running] = self.told.driver.does(now, self._propose)
        at = self.told.driver.free_at
        for trial in begun:
            trial.lost_at = at + self._dice.expovariate(1 / self._cluster.lost_every_s)
            self._train(at + self._cluster.start_s, trial)
        if begun:
            self._begin_writing(at)

    def _propose(self) -> list[Running]:
        begun = []
        while True:
            name, started = f"t{next(self._ids)}", self.told.driver.clock()
            suggested = self._searcher.suggest(name)
            if not isinstance(suggested, dict):
                return begun
            self.told.proposals_s.append(self.told.driver.clock() - started)
            proposal: Proposal = suggested["proposal"]
            begun.append(Running(name, proposal, self._kept.get(proposal.key, 0), math.inf))

    def _train(self, now: float, trial: Running) -> None:
        """A worker trains an epoch, or is lost in the middle of it."""
        own = random.Random(f"{self._cluster.seed} {trial.proposal.key}")
        pace = own.lognormvariate(-0.125, 0.5)  # of mean 1
        seconds = self._cluster.epoch_s * pace * self._dice.uniform(0.9, 1.1)
        if trial.lost_at < now + seconds:
            self._at(max(now, trial.lost_at), lambda at: self._lose(at, trial))
            return
        self.told.trained_s += seconds
        trial.epoch += 1
        self._at(now + seconds, lambda at: self._log(at, trial))

    def _log(self, now: float, trial: Running) -> None:
        """The worker has the tracker write the epoch's metrics down, then reports it."""
        event = RunMetrics(key=trial.proposal.key, step=trial.epoch, values=self._metrics)
        self.told.tracker.does(now, lambda: self._spool.append([event]))
        self.told.unwritten = max(self.told.unwritten, self._spool.size)
        self._begin_writing(now)
        if trial.epoch % self._manifest.config.resources.checkpoint_every == 0:
            self._kept[trial.proposal.key] = trial.epoch
        self._at(self.told.tracker.free_at, lambda at: self._report(at, trial))

    def _report(self, now: float, trial: Running) -> None:
        """The driver hears of an epoch, and says whether the trial goes on."""
        goes_on = self.told.driver.does(now, lambda: self._hear(trial))
        self.told.results += 1
        if goes_on:
            self._at(self.told.driver.free_at, lambda at: self._train(at, trial))
        else:
            self._ended()

    def _hear(self, trial: Running) -> bool:
        result = self._result(trial)
        if not result["done"]:
            decision = self._scheduler.on_trial_result(None, trial, result)
            if decision != TrialScheduler.STOP:
                self._searcher.on_trial_result(trial.id, result)
                return True
        self._scheduler.on_trial_complete(None, trial, result)
        self._searcher.on_trial_complete(trial.id, result)
        return False

    def _lose(self, now: float, trial: Running) -> None:
        self.told.lost += 1
        self._alive -= 1
        self.told.driver.does(now, lambda: self._searcher.on_trial_complete(trial.id, error=True))
        self._at(now + self._cluster.back_s, self._come_back)
        self._ended()

    def _come_back(self, now: float) -> None:
        self._alive += 1
        self._fill(now)

    def _ended(self) -> None:
        self.told.seconds = self.told.driver.free_at
        self._at(self.told.driver.free_at, self._fill)

    def _result(self, trial: Running) -> dict[str, Any]:
        """What a worker tells of an epoch: a curve that rises to a height which depends on the trial's point."""
        own = random.Random(f"{self._cluster.seed} fate {trial.proposal.key}")
        if own.random() < self._cluster.failing and trial.epoch >= own.randint(1, self._epochs):
            return {"done": True, "finished": False, "epoch": trial.epoch, "failed": "made to"}
        distance = sum((math.log10(float(value)) + 2) ** 2 for value in trial.proposal.values.values())
        score = 0.03 * math.exp(-distance) * (1 - math.exp(-trial.epoch / 5)) + own.gauss(0, 1e-3)
        finished = trial.epoch >= self._epochs
        return {
            "done": finished,
            "finished": finished,
            "epoch": trial.epoch,
            "score": score,
            "latest": score,
            "metrics": tuple((metric, score) for metric in METRICS),
            "seconds": tuple(seconds_by_part(self._metrics).items()),
        }

    def _on_end(self, proposal: Proposal, state: str, reason: str | None) -> None:
        self._spool.append([run_end(proposal.key, state, reason)])
        TrialLog(self._folder, proposal.key).write(f"ended: {state}")
        self.told.states[state] = self.told.states.get(state, 0) + 1

    def _on_change(self, snapshot: Snapshot) -> None:
        """What shows it costs is the progress display's affair."""

    def _begin_writing(self, now: float) -> None:
        if not self._writing:
            self._writing = True
            self._at(max(now, self.told.writer.free_at), self._drain)

    def _drain(self, now: float) -> None:
        """The tracker's other thread writes a batch to MLflow; see `Tracker`."""
        written = self.told.writer.does(now, self._write)
        if self._spool.size:
            self._at(self.told.writer.free_at + (_GATHER_S if written < _BATCH else 0.0), self._drain)
        else:
            self._writing = False

    def _write(self) -> int:
        events, offset = self._spool.pending(_BATCH)
        refused = self._writer.write(events)
        assert not refused, refused
        self._spool.confirm(offset)
        return len(events)
