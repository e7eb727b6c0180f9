"""Sweeps that are interrupted, and one that is not."""

import os
import signal

import pytest
from rig import NAME, TRIALS, Rig, until


@pytest.fixture(scope="session")
def new_rig(tmp_path_factory):
    """Makes rigs; whatever they left running is killed at the end."""
    rigs = []

    def make(trials_an_arm=TRIALS):
        rigs.append(Rig(tmp_path_factory.mktemp("rig"), trials_an_arm))
        return rigs[-1]

    yield make
    for rig in rigs:
        for process in rig.processes():
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def rig(new_rig):
    return new_rig()


@pytest.fixture(scope="session")
def quiet(new_rig):
    """The same sweep, left alone."""
    rig = new_rig()
    done = rig.run("run", "hurt.py", "--name", NAME)
    assert done.returncode == 0, done.stderr
    until(lambda: not rig.processes(), "the end of its processes")
    return rig
