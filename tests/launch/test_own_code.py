"""A user's own objective, cost term and network, in one file that is installed nowhere, in a real sweep."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_sweep import runs_of

from alignray.cli.main import status
from alignray.launch import audit, find_sweep, open_result
from alignray.sweep import Manifest

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[2]
OWN = '''"""My own sweep."""

from dataclasses import dataclass
from typing import ClassVar

import torch

import alignray as ar
from alignray.costs import TERMS
from alignray.objectives import OBJECTIVES, Mse


class Huber(Mse):
    """A loss of my own."""

    name: ClassVar[str] = "huber"

    def evaluate(self, p, y, F=None, mask=None, previous=None, warm=None):
        p, y = (torch.where(mask, value, 0.0) if mask is not None else value for value in (p, y))
        return torch.nn.functional.huber_loss(p, torch.nan_to_num(y).expand_as(p), reduction="none").sum(-1), None


@dataclass(frozen=True, slots=True)
class Quartic(ar.SeparableTerm):
    """A cost of my own."""

    name: ClassVar[str] = "quartic"

    def phi(self, x):
        return x**4


class Net(torch.nn.Module):
    """A network of my own."""

    def __init__(self, config, num_features):
        super().__init__()
        self.layer = torch.nn.Linear(num_features, 1)

    def forward(self, x):
        return self.layer(x)


OBJECTIVES["huber"], TERMS["quartic"] = Huber, Quartic


def sweep() -> ar.SweepConfig:
    cost = ar.Quadratic(1.0) + Quartic(0.1)
    return ar.SweepConfig(
        template="own",
        imports=(__file__,),
        data=ar.DataConfig(source="synthetic", synthetic=ar.SyntheticConfig(eras=40, rows=30, features=5)),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="utility"),
            model=ar.ModelConfig(family="own_parts:Net"),
            training=ar.TrainingConfig(epochs=2, eras_per_batch=8),
            split=ar.SplitConfig(embargo=2),
            members=2,
        ),
        space=ar.Space({"cost.quartic.strength": ar.Float(0.01, 1.0, log=True)}),
        arms=("huber", "mse"),
        search=ar.SearchConfig(trials=1, initial_points=1),
        holdout=ar.HoldoutConfig(eras=6, members=2),
    )
'''


def alignray(home, *arguments):
    """In a process of its own, which has imported nothing of the user's."""
    kept = {name: value for name, value in os.environ.items() if name not in ("MLFLOW_TRACKING_URI", "RAY_ADDRESS")}
    return subprocess.run(
        [sys.executable, "-m", "alignray", *arguments],
        cwd=home,
        env={**kept, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with a finished sweep of the user's own parts, which lie elsewhere."""
    home = tmp_path_factory.mktemp("home")
    (home / "elsewhere").mkdir()
    (home / "elsewhere" / "own_parts.py").write_text(OWN)
    done = alignray(home, "run", "elsewhere/own_parts.py", "--name", "own")
    assert done.returncode == 0, done.stderr
    return home


def test_it_runs_on_the_workers(home):
    # The manifest names the code, so that reading it imports it here too.
    trials = open_result("own", storage=home / "runs").trials
    assert trials["state"].tolist() == ["complete", "complete"]
    manifest = Manifest.load(home / "runs" / "own")
    assert list(manifest.code) == [str(home / "elsewhere" / "own_parts.py")]
    assert audit("own", storage=home / "runs").agrees


def test_a_fresh_process_goes_on_with_it_and_plans_it(home):
    done = alignray(home, "resume", "own")
    assert done.returncode == 0, done.stderr
    assert "huber" in done.stdout
    plan = alignray(home, "run", "elsewhere/own_parts.py", "--dry-run")
    assert plan.returncode == 0, plan.stderr
    assert "huber" in plan.stdout


def test_a_run_of_it_becomes_a_template_that_runs(home):
    runs = runs_of(f"sqlite:///{home}/mlflow.db", "own")
    done = alignray(home, "template", "from-run", runs["huber-0"].info.run_id, "again.py")
    assert done.returncode == 0, done.stderr
    text = (home / "again.py").read_text()
    assert f'ar.import_code("{home / "elsewhere" / "own_parts.py"}")' in text
    assert 'TERMS["quartic"](' in text
    assert find_sweep(str(home / "again.py")).arms == ("huber",)


def test_code_that_changed_or_is_gone(home, capsys):
    file = home / "elsewhere" / "own_parts.py"
    for change, said in (
        (lambda: file.write_text(f"{OWN}\n"), "has changed since"),
        (file.unlink, "put the file back"),
    ):
        change()
        try:
            assert status(["resume", "own", "--storage", str(home / "runs")]) == 2
        finally:
            file.write_text(OWN)
        (line,) = capsys.readouterr().err.splitlines()
        assert "own_parts.py" in line
        assert said in line


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch.py", "cannot be read"),
        ("nosuch_module", "cannot be imported here"),
        ("random.py", "call the file otherwise"),
    ],
)
def test_imports_that_cannot_be(name, said, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("random.py").touch()
    assert status(["run", "quickstart", "--set", f'imports=["{name}"]']) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "imports" in line
    assert said in line
