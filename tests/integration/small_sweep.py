"""Running alignray's command line in a folder of its own, and a sweep small enough for tests."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
ARMS = ("aligned", "misaligned", "fenchel_young", "mse")
SMALL = [
    "--trials",
    "3",
    "--set",
    "trial.training.epochs=4",
    "--set",
    "trial.members=2",
    "--set",
    "holdout.members=2",
    "--set",
    "scheduler.grace_epochs=1",
]


@dataclass(frozen=True)
class Demo:
    """A finished sweep and what its command printed."""

    home: Path
    output: str

    @property
    def folder(self) -> Path:
        return self.home / "runs" / "first"

    @property
    def tracking_uri(self) -> str:
        return f"sqlite:///{self.home / 'mlflow.db'}"

    def run_id(self, name: str) -> str:
        """The MLflow run of that name."""
        from mlflow import MlflowClient

        client = MlflowClient(self.tracking_uri)
        experiment = client.get_experiment_by_name("alignray")
        assert experiment is not None
        wanted = f"tags.`mlflow.runName` = '{name}' and tags.`alignray.sweep` = 'first'"
        (run,) = client.search_runs([experiment.experiment_id], wanted)
        return str(run.info.run_id)

    def alignray(self, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
        return alignray(self.home, *arguments, timeout=timeout)


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return {**kept, "PYTHONPATH": str(ROOT)}


def alignray(home: Path, *arguments: str, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "alignray", *arguments],
        cwd=home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
