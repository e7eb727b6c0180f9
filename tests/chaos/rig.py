"""A small sweep in a process of its own, that tests may hurt."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
import optuna
import pandas as pd
from optuna.storages.journal import JournalFileBackend

from alignray.data import Panel, datasets

ROOT = Path(__file__).parents[2]
ARMS, TRIALS, EPOCHS = ("aligned", "mse"), 3, 30
NAME = "hurt"
_MARK = "ALIGNRAY_TEST_RIG"
# Every point is known from the start and no trial is stopped early, so whatever happens to it a sweep has one result.
_SWEEP = f"""
import alignray as ar

def sweep():
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    return ar.SweepConfig(
        template="hurt",
        data=ar.DataConfig(source="panel.parquet"),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="corr"),
            model=ar.ModelConfig(family="mlp", depth=2, width=32),
            training=ar.TrainingConfig(epochs={EPOCHS}, patience={EPOCHS}, eras_per_batch=8),
            split=ar.SplitConfig(folds=1, embargo=2),
            members=2,
        ),
        space=ar.Space({{
            "cost.soft_l1.strength": ar.Float(0.005, 0.1, log=True),
            "training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True),
        }}),
        arms={ARMS!r},
        search=ar.SearchConfig(trials=TRIALS, initial_points=TRIALS),
        scheduler=ar.SchedulerConfig(name="fifo"),
        resources=ar.ResourceConfig(checkpoint_every=4, max_concurrent=2),
        holdout=ar.HoldoutConfig(eras=12, members=1),
    )
"""


def until(condition: Callable[[], Any], what: str, timeout_s: float = 90.0) -> Any:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not come about in {timeout_s:.0f} s"
        time.sleep(0.05)
    return found


def trial_nodes() -> set[str]:
    """The nodes of the connected cluster on which processes of trials live."""
    from ray._private.state import actors

    return {
        actor["Address"]["NodeID"]
        for actor in actors().values()
        if "Trainable" in actor["ActorClassName"] and actor["State"] == "ALIVE"
    }


@dataclass
class Rig:
    """A folder with the sweep in it, and the processes that were started there."""

    home: Path
    trials_an_arm: int = TRIALS
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def __post_init__(self) -> None:
        (self.home / "hurt.py").write_text(_SWEEP.replace("TRIALS", str(self.trials_an_arm)))
        panel = datasets.synthetic(num_eras=60, rows=120, num_features=8, seed=0)
        _frame_of(panel).to_parquet(self.home / "panel.parquet")

    @property
    def folder(self) -> Path:
        return self.home / "runs" / NAME

    @property
    def keys(self) -> set[str]:
        """The names of all its trials."""
        return {f"{arm}-{number}" for arm in ARMS for number in range(self.trials_an_arm)}

    @property
    def store(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def environment(self) -> dict[str, str]:
        kept = {name: v for name, v in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", _MARK: self.mark}

    def start(self, *arguments: str) -> Driver:
        """Start the command line in a session of its own, as a terminal would."""
        errors = (self.home / "stderr.txt").open("w+")
        process = subprocess.Popen(
            [sys.executable, "-m", "alignray", *arguments],
            cwd=self.home,
            env=self.environment(),
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            start_new_session=True,
        )
        return Driver(process, errors)

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the command line to its end."""
        return subprocess.run(
            [sys.executable, "-m", "alignray", *arguments],
            cwd=self.home,
            env=self.environment(),
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )

    def processes(self, name: str = "") -> dict[int, str]:
        """The living processes that came of this rig, by id, with their titles."""
        found = {}
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                ours = f"{_MARK}={self.mark}".encode() in (folder / "environ").read_bytes()
                title = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            # A process that renames itself writes over its environment: Ray's workers are told by their titles.
            if state != "Z" and (ours or self._is_worker(folder, title)) and name in title:
                found[int(folder.name)] = title
        return found

    def _is_worker(self, folder: Path, title: str) -> bool:
        try:
            return title.startswith("ray::") and (folder / "cwd").resolve() == self.home.resolve()
        except OSError:
            return False

    def trials(self) -> dict[str, optuna.trial.FrozenTrial]:
        """The trials that were proposed, as the journal has them, by key."""
        storage = optuna.storages.JournalStorage(JournalFileBackend(str(self.folder / "optuna.journal")))
        return {
            f"{arm}-{trial.number}": trial
            for arm in ARMS
            for trial in optuna.load_study(study_name=f"{NAME}/{arm}", storage=storage).get_trials()
            if trial.state != optuna.trial.TrialState.WAITING
        }

    def runs(self) -> dict[str, dict[str, Any]]:
        """What MLflow holds of the sweep, by run name: no name may be there twice."""
        from mlflow import MlflowClient

        client = MlflowClient(self.store)
        held: dict[str, dict[str, Any]] = {}
        for run in client.search_runs([client.get_experiment_by_name("alignray").experiment_id]):
            name = run.info.run_name
            assert name not in held, f"two runs {name}"
            held[name] = {
                "id": run.info.run_id,
                "status": run.info.status,
                "times": (run.info.start_time, run.info.end_time),
                "tags": {key: value for key, value in run.data.tags.items() if key.startswith("alignray.")},
                "parent": run.data.tags.get("mlflow.parentRunId"),
                "params": run.data.params,
                "metrics": {
                    key: [(m.step, m.timestamp, m.value) for m in client.get_metric_history(run.info.run_id, key)]
                    for key in run.data.metrics
                },
            }
        return held


@dataclass
class Driver:
    """A command line that is running."""

    process: subprocess.Popen[str]
    errors: IO[str]
    seen: list[str] = field(default_factory=list)

    def until(self, pattern: str) -> str:
        """Read what it prints until a line matches."""
        for line in self._lines():
            if re.search(pattern, line):
                return line
        raise AssertionError(f"it ended before {pattern!r}: {''.join(self.seen)}{self.end()[1]}")

    def end(self) -> tuple[int, str]:
        """Wait for its end; its exit status and what it said on stderr."""
        for _ in self._lines():
            pass
        status = self.process.wait(timeout=120)
        self.errors.seek(0)
        said = self.errors.read()
        self.errors.close()
        self.process.stdout.close()
        return status, said

    def _lines(self) -> Iterator[str]:
        for line in self.process.stdout:
            self.seen.append(line)
            yield line


def _frame_of(panel: Panel) -> pd.DataFrame:
    parts = []
    for shard in panel.shards:
        part = pd.DataFrame(np.asarray(shard.features), columns=list(panel.schema.features))
        part.insert(0, "era", np.repeat([f"{int(era):04d}" for era in shard.eras], np.diff(shard.offsets)))
        part["target"] = shard.target
        parts.append(part)
    return pd.concat(parts, ignore_index=True)
