"""Whatever is read of a finished sweep, from its folder or from MLflow, Python's unpickler finds no class in it."""

from __future__ import annotations

import subprocess
import sys

import pytest
from small_sweep import Demo, environment

pytestmark = pytest.mark.ray
READING = """
import sys
from pathlib import Path
import numpy, pandas, pyarrow, ray, sqlalchemy, torch  # libraries may unpickle their own files as they are imported
from alignray.launch import audit, open_result
from alignray.serving import TrainedModel, load_model
from alignray.sweep import Manifest, load_finals, sweep_studies

unpickled = []
sys.addaudithook(lambda event, given: unpickled.append(given) if event == "pickle.find_class" else None)

folder, (run_id,) = Path("runs/first").resolve(), sys.argv[1:]
result = open_result("first")
manifest = Manifest.load(folder)
assert all(study.rows() for study in sweep_studies(folder, manifest).values())
assert all(TrainedModel.load(final.model) for final in load_finals(folder, manifest))
assert audit("first").lines
load_model(run_id)
print(len(result.trials), unpickled)
"""


def test_reading_a_sweep_unpickles_nothing(demo: Demo) -> None:
    done = subprocess.run(
        [sys.executable, "-c", READING, demo.run_id("aligned-final")],
        cwd=demo.home,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "12 []\n"
