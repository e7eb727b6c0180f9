"""The package: what an import loads, and the names it offers."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import alignray

ROOT = Path(alignray.__file__).parents[1]
FLOORS = [  # 0 to 4
    "alignray.errors",
    "alignray.configuration",
    "alignray.costs",
    "alignray.solver",
    "alignray.metrics",
    "alignray.objectives",
    "alignray.models",
    "alignray.data",
    "alignray.statistics",
    "alignray.training",
    "alignray.checkpoint",
    "alignray.diagnostics",
    "alignray.trial",
]


def loaded_by(statement: str) -> set[str]:
    """The top-level modules that a fresh interpreter holds after a statement."""
    code = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(done.stdout.split())


def test_importing_alignray_loads_nothing_heavy():
    loaded = loaded_by("import alignray; alignray.__version__; dir(alignray)")
    assert "alignray" in loaded
    assert not loaded & {"torch", "numpy", "pandas", "ray", "optuna", "mlflow", "cvxpy", "cvxpylayers"}


def test_floors_0_to_4_load_neither_ray_optuna_mlflow_nor_cvxpy():
    loaded = loaded_by("import " + ", ".join(FLOORS))
    assert "torch" in loaded
    assert not loaded & {"ray", "optuna", "mlflow", "cvxpy", "cvxpylayers", "diffcp"}


def test_a_native_solve_loads_no_cvxpy():
    loaded = loaded_by("import torch, alignray as ar; ar.SolverLayer(ar.Quadratic(1.0))(torch.ones(3))")
    assert not loaded & {"ray", "optuna", "mlflow", "cvxpy", "cvxpylayers", "diffcp"}


def test_all_lists_what_is_exported():
    assert set(alignray.__all__) == set(alignray._EXPORTS)
    assert len(alignray.__all__) == len(set(alignray.__all__))
    assert set(dir(alignray)) == {*alignray.__all__, "__version__"}


@pytest.mark.parametrize("name", alignray.__all__)
def test_every_name_resolves_to_what_its_module_offers(name):
    found = getattr(alignray, name)
    module = importlib.import_module(alignray._EXPORTS[name])
    assert found is module or found is getattr(module, name)
    if found is not module:
        assert name in module.__all__


def test_a_name_that_does_not_exist_is_an_attribute_error():
    with pytest.raises(AttributeError, match="module 'alignray' has no attribute 'quadratic'"):
        _ = alignray.quadratic


def test_the_version_is_that_of_the_project():
    assert f'version = "{alignray.__version__}"' in (ROOT / "pyproject.toml").read_text()


def test_the_first_lines_of_the_interfaces_run():
    """Word for word what interfaces.md promises."""
    code = """
import torch
import alignray as ar
p, y, F = torch.randn(2, 5), torch.randn(2, 5), torch.randn(2, 5, 3)
cost = ar.Quadratic(1.0) + ar.SoftL1(0.15, width=0.05) + ar.FactorPenalty(10.0)
assert cost(p, F).shape == (2,)
layer = ar.SolverLayer(cost)
solution = layer(p, F)
solution.q, solution.residual, solution.iterations, solution.converged
layer(p, F, mask=torch.ones(2, 5, dtype=torch.bool), warm=solution)
objective = ar.objective("aligned", layer)
loss = objective(p, y, F)
assert loss.shape == (2,)
assert (ar.regret(layer, p, y, F) >= 0).all()
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, cwd=ROOT)
