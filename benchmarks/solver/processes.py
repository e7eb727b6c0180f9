"""Runs a measurement in a process of its own, with a time limit."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.solver.problem import Problem

_RESULT = "result.json"


@dataclass(frozen=True, slots=True, eq=False)
class Outcome:
    """What came back.

    Attributes:
        failure: Why nothing came back; None if something did.
        figures: What was measured.
        arrays: What was found.
    """

    failure: str | None = None
    figures: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)


def measure(task: str, problem: Problem, name: str, *, repeats: int, limit: float) -> Outcome:
    """Run a task of `benchmarks.solver.worker` for a contestant.

    Args:
        task: The function's name.
        problem: The problem.
        name: The contestant.
        repeats: Timed repeats.
        limit: Seconds after which the process is ended.
    """
    with tempfile.TemporaryDirectory() as name_of_folder:
        folder = Path(name_of_folder)
        problem.save(folder / "problem.npz")
        command = [sys.executable, "-m", "benchmarks.solver.processes", task, name, str(repeats), str(folder)]
        try:
            ended = subprocess.run(command, timeout=limit, capture_output=True, text=True, check=False)
        except subprocess.TimeoutExpired:
            return Outcome(failure=f"not waited for: over {limit:g} s")
        if ended.returncode < 0:
            return Outcome(failure=f"killed by {signal.Signals(-ended.returncode).name}")
        if ended.returncode:
            return Outcome(failure=(ended.stderr.strip().splitlines() or ["no message"])[-1][:120])
        with np.load(folder / "found.npz") as found:
            arrays = {key: found[key] for key in found.files}
        return Outcome(figures=json.loads((folder / _RESULT).read_text()), arrays=arrays)


def _main(task: str, name: str, repeats: str, folder: str) -> None:
    """The other side of `measure`."""
    from benchmarks.solver import worker

    problem = Problem.load(Path(folder) / "problem.npz")
    figures = getattr(worker, task)(problem, name, int(repeats), Path(folder))
    (Path(folder) / _RESULT).write_text(json.dumps(figures))


if __name__ == "__main__":
    _main(*sys.argv[1:])
