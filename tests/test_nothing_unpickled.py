"""What alignray reads of a sweep's folder, of MLflow or of a data set is numbers and text: no code runs by it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import alignray

PACKAGE = Path(alignray.__file__).parent
UNPICKLING_MODULES = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
"""Whoever imports one of them can unpickle; ray.cloudpickle is found by its last part."""
LOADING = {
    "torch": {"load"},
    "np": {"load"},
    "numpy": {"load"},
    "pd": {"read_pickle"},
    "pandas": {"read_pickle"},
    "yaml": {"load", "unsafe_load", "full_load"},
    "Tuner": {"restore"},
    "pyfunc": {"load_model"},
}
"""Functions by what they are called on: the first four unpickle, the others run code that they find."""
EXECUTING = {"exec", "eval", "compile"}


def offences(tree: ast.AST) -> list[str]:
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names if set(alias.name.split(".")) & UNPICKLING_MODULES]
        elif isinstance(node, ast.ImportFrom):
            names = {*(node.module or "").split("."), *(alias.name for alias in node.names)}
            found += sorted(names & UNPICKLING_MODULES)
        elif isinstance(node, ast.Attribute):
            owner = node.value.id if isinstance(node.value, ast.Name) else getattr(node.value, "attr", "")
            if node.attr in LOADING.get(owner, ()) or node.attr in UNPICKLING_MODULES:
                found.append(f"{owner}.{node.attr}")
        elif isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            found.append("allow_pickle")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in EXECUTING:
            found.append(node.func.id)
    return found


def test_alignray_unpickles_nothing_and_runs_no_text_but_the_users_own_files() -> None:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        if offending := offences(ast.parse(file.read_text())):
            found[file.relative_to(PACKAGE).as_posix()] = offending
    # `imports`: the file that a user names, read from where they keep it and never from a sweep's folder.
    assert found == {"imports.py": ["exec", "compile"]}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "import ray.cloudpickle",
        "from ray import cloudpickle",
        "from joblib import load",
        "torch.load(path)",
        "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)",
        "ray.cloudpickle.loads(data)",
        "tune.Tuner.restore(path)",
        "mlflow.pyfunc.load_model(uri)",
        "eval(text)",
    ],
)
def test_the_test_finds(text: str) -> None:
    assert offences(ast.parse(text))
