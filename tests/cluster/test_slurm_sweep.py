"""Sweeps in a real Slurm of two nodes: submitted, followed, stopped in every way that Slurm has, and gone on with."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from slurm import Slurm, running_slurm, why_no_slurm

from alignray.launch import open_result

ROOT = Path(__file__).parents[2]
ARMS, TRIALS, EPOCHS = ("aligned", "mse"), 3, 20
_SETTINGS = {
    "arms": json.dumps(ARMS),
    "trial.training.epochs": EPOCHS,
    "trial.training.patience": EPOCHS,
    "trial.members": 2,
    "holdout.members": 1,
    "scheduler.name": "fifo",
    "resources.checkpoint_every": 2,
}
SMALL = [f"--trials={TRIALS}", *(f"--set={field}={value}" for field, value in _SETTINGS.items())]
SWEEP = ["run", "quickstart", "--name", "first", *SMALL]

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(why_no_slurm() is not None, reason=str(why_no_slurm())),
]


@dataclass(frozen=True)
class Desk:
    """A user's folder and home, seen by all nodes, and a Slurm."""

    home: Path
    slurm: Slurm

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_", "SLURM_"))}
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return kept | self.slurm.environment | {"PATH": path, "PYTHONPATH": str(ROOT), "HOME": str(self.home)}

    def start(self, *command: str) -> subprocess.Popen[str]:
        program = [sys.executable, "-m"] if command[0] == "alignray" else []
        return subprocess.Popen(
            [*program, *command],
            cwd=self.home,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *command: str) -> str:
        """What a command says that succeeds."""
        process = self.start(*command)
        said, _ = process.communicate(timeout=600)
        assert process.returncode == 0, said
        return said

    def submit(self, *command: str) -> subprocess.Popen[str]:
        return self.start("alignray", "cluster", "submit", "slurm", *command)

    def finish(self, *command: str) -> str:
        """Submit a sweep, and follow it to its end."""
        said = self.run("alignray", "cluster", "submit", "slurm", *command)
        assert "report.html" in said
        return said

    def until_trials_ended(self, number: int) -> str:
        """Wait until the newest log says that so many trials ended; the job whose log it is."""
        ended = re.compile(rf"[{number}-{len(ARMS) * TRIALS}]/{len(ARMS) * TRIALS} trials ended")
        deadline = time.monotonic() + 400
        while time.monotonic() < deadline:
            logs = sorted(self.home.glob("first-*[0-9].log"), key=lambda log: log.stat().st_mtime)
            if logs and ended.search(logs[-1].read_text()):
                return logs[-1].stem.removeprefix("first-")
            time.sleep(0.2)
        pytest.fail(f"no {number} trials ended: {[log.read_text() for log in self.home.glob('*.log')]}")

    def until_it_left(self, job: str) -> None:
        deadline = time.monotonic() + 120
        while job in self.slurm.call("squeue", "--noheader", "--format=%i"):
            assert time.monotonic() < deadline
            time.sleep(0.2)

    def log(self, job: str) -> str:
        return (self.home / f"first-{job}.log").read_text()

    def require_whole(self) -> None:
        """Every trial is there once and whole, and every final model was scored once."""
        result = open_result("first", storage=self.home / "runs")
        assert sorted(result.trials["arm"]) == sorted(ARMS * TRIALS)
        assert set(result.trials["state"]) == {"complete"}
        assert set(result.trials["epochs"]) == {EPOCHS}
        manifest = json.loads((result.folder / "manifest.json").read_text())
        assert manifest["holdout_looks"] == dict.fromkeys(ARMS, 1)


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with running_slurm() as slurm:
        yield Desk(tmp_path, slurm)
    for job in tmp_path.glob("first-*[0-9].log"):
        shutil.rmtree(Path("/tmp") / f"ray-{job.stem.removeprefix('first-')}", ignore_errors=True)


def commands_of_the_page() -> list[list[str]]:
    page = (ROOT / "docs" / "cluster" / "slurm.md").read_text()
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    lines = [shlex.split(line) for block in blocks for line in block.splitlines()]
    return [line for line in lines if line[0] in ("alignray", "sbatch")]


def test_the_page_from_nothing_to_a_finished_sweep(desk: Desk) -> None:
    said = {}
    for command in commands_of_the_page():
        here = [part.replace("/shared/runs", "runs") for part in command]
        if "quickstart" in here:
            at = here.index("quickstart") + 1
            here[at:at] = SMALL
        said[" ".join(command[:3])] = desk.run(*here)
        if command[0] == "sbatch":
            desk.until_it_left(said[" ".join(command[:3])].split()[-1])
    assert "Nothing to start" in said["alignray cluster up"]
    assert "report.html" in said["alignray cluster submit"]
    desk.require_whole()

    token = desk.home / ".ray" / "auth_token"
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    logs = sorted(desk.home.glob("*.log"))
    assert len(logs) == 6  # three jobs, and what Ray said of each
    assert logs[0].read_text().count("Ray runtime started") == 2  # a head and a worker
    assert not [log for log in logs if token.read_text() in log.read_text()]
    assert "no sweep" in desk.run("alignray", "cluster", "down", "slurm")


def test_a_killed_client_costs_nothing_and_down_stops_the_sweep_cleanly(desk: Desk) -> None:
    client = desk.submit(*SWEEP)
    job = desk.until_trials_ended(1)
    client.kill()
    client.communicate()
    again = desk.submit(*SWEEP)
    assert again.stdout is not None
    assert f"Job {job} is the sweep first already" in again.stdout.readline()
    again.send_signal(signal.SIGINT)
    said, _ = again.communicate(timeout=30)
    assert f"job {job} goes on" in said
    assert "first" in desk.run("alignray", "cluster", "status", "slurm")

    assert f"Job {job}" in desk.run("alignray", "cluster", "down", "slurm")
    desk.until_it_left(job)
    assert re.search(r"alignray: stopped; \d trials? .* kept\. Go on with: alignray resume first", desk.log(job))
    desk.finish("resume", "first")
    desk.require_whole()


def test_after_scancel_the_same_command_goes_on(desk: Desk) -> None:
    client = desk.submit(*SWEEP)
    job = desk.until_trials_ended(2)
    desk.slurm.call("scancel", job)
    client.communicate(timeout=120)
    assert client.returncode == 1
    assert desk.slurm.state(job) == "CANCELLED"
    desk.finish(*SWEEP)
    desk.require_whole()


def test_a_lost_node_costs_its_trials_no_more_than_the_epochs_since_their_checkpoints(desk: Desk) -> None:
    client = desk.submit(*SWEEP)
    job = desk.until_trials_ended(1)
    desk.slurm.call("scontrol", "update", "nodename=two", "state=down", "reason=lost")
    said, _ = client.communicate(timeout=600)
    assert client.returncode == 0, said
    assert "Node failure on two" in (desk.home / f"first-{job}-ray.log").read_text()
    assert "report.html" in said
    desk.require_whole()


@pytest.mark.parametrize("how", ["time", "requeue"])
def test_a_job_that_slurm_starts_again_goes_on(desk: Desk, how: str) -> None:
    client = desk.submit(*SWEEP)
    job = desk.until_trials_ended(2)
    if how == "time":
        desk.slurm.call("scancel", "--batch", "--signal=USR1", job)  # as Slurm does before the time is up
    else:
        desk.slurm.call("scontrol", "requeue", job)  # as for a job of more weight
    said, _ = client.communicate(timeout=600)
    assert client.returncode == 0, said
    assert ("alignray: stopped;" in said) == (how == "time")
    assert "report.html" in said
    desk.require_whole()
