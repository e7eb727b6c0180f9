"""What all tests share: repeatable property tests, one thread, devices, a small panel, a PostgreSQL."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, settings
from postgres import Postgres, running_postgres, why_no_postgres

from alignray.data import Panel, datasets

settings.register_profile(
    "repeatable", deadline=None, max_examples=20, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("repeatable")
# A background job of a shell ignores Ctrl-C, and so would every command that the tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
torch.set_num_threads(1)  # on tensors this small, threads only wait for one another

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


@pytest.fixture(scope="session", params=["cpu", pytest.param("cuda", marks=NO_CUDA)])
def device(request) -> torch.device:
    """Every test that takes it runs on the CPU, and again on CUDA where there is one."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def panel() -> Panel:
    """24 eras of at most 30 rows, 5 features that are the factors too."""
    return datasets.synthetic(num_eras=24, rows=30, num_features=5, seed=0)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL of its own for the session; tests that take it are skipped where none is installed."""
    if why_not := why_no_postgres():
        pytest.skip(why_not)
    with running_postgres() as server:
        yield server
