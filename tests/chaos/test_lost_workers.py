"""A trial of two workers loses one of them, or its driver: the sweep comes to what it would have come to."""

import os
import signal

import pandas as pd
import pytest
from optuna.trial import TrialState
from rig import NAME, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TWO = ("--set", "resources.workers_per_trial=2", "--set", "resources.cpus_per_trial=0.5")


def worker(rig, trials=1):
    """A worker, once so many trials have made a few steps."""
    until(lambda: sum(len(t.intermediate_values) > 5 for t in rig.trials().values()) >= trials, "a few epochs")
    return until(lambda: rig.processes("ray::RayTrainWorker"), "a worker").popitem()[0]


def ours(said):
    """What alignray said: Ray itself tells of many processes that start at once."""
    return [line for line in said.splitlines() if "(raylet)" not in line]


def require_same(rig, quiet):
    """The sweep found what a quiet one with a worker a trial did, to rounding."""
    trials, theirs = rig.trials(), quiet.trials()
    assert set(trials) == set(theirs)
    for key, trial in trials.items():
        assert trial.state == TrialState.COMPLETE
        assert (trial.params, trial.last_step) == (theirs[key].params, theirs[key].last_step)
        assert trial.value == pytest.approx(theirs[key].value, rel=1e-4), key
    found, expected = (pd.read_csv(one.folder / "comparison.csv").drop(columns="looks") for one in (rig, quiet))
    pd.testing.assert_frame_equal(found, expected, rtol=1e-3, atol=2e-2)  # ranks may swap


def test_a_trial_that_loses_a_worker_goes_on_from_its_checkpoint(rig, quiet):
    driver = rig.start("run", "hurt.py", "--name", NAME, *TWO)
    driver.until("0/6 trials ended")
    os.kill(worker(rig), signal.SIGKILL)
    driver.until("[2-9]/6 trials ended")
    os.kill(worker(rig, trials=3), signal.SIGKILL)
    status, said = driver.end()
    assert (status, ours(said)) == (0, [])
    assert len([line for line in driver.seen if "its worker was lost" in line]) == 2
    require_same(rig, quiet)


def test_ctrl_c_leaves_no_worker_behind(rig):
    driver = rig.start("run", "hurt.py", "--name", NAME, *TWO)
    driver.until("0/6 trials ended")
    worker(rig)
    os.killpg(driver.process.pid, signal.SIGINT)
    status, said = driver.end()
    assert (status, len(ours(said))) == (1, 1), said
    until(lambda: not rig.processes(), "the end of every process of Ray", timeout_s=60)
