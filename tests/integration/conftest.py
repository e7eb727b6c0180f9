"""One small sweep, run once on real Ray and real MLflow, for every test that looks at it."""

from __future__ import annotations

import pytest
from small_sweep import SMALL, Demo, alignray


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    home = tmp_path_factory.mktemp("first")
    done = alignray(home, "run", "quickstart", "--name", "first", *SMALL)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return Demo(home, done.stdout)
