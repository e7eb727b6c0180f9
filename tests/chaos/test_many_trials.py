"""Sweeps of forty trials under fire: every trial is accounted for once, and comes to what it would have come to."""

import os
import random
import signal
import threading
import time

import pytest
from records import ended, numbers, require_untouched, require_whole
from rig import NAME, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(1200)]

TRIALS_AN_ARM = 20
EVER_AGAIN = ("--set", "resources.max_failures=1000")


@pytest.fixture(scope="module")
def quiet_forty(new_rig):
    rig = new_rig(TRIALS_AN_ARM)
    done = rig.run("run", "hurt.py", "--name", NAME)
    assert done.returncode == 0, done.stderr
    require_whole(rig)
    return rig


@pytest.fixture
def forty(new_rig):
    return new_rig(TRIALS_AN_ARM)


def require_gone(rig):
    # Ray's two agents take their time to see that nobody is there any more.
    until(lambda: all("Agent" in title for title in rig.processes().values()), "the end of Ray", timeout_s=60)


def test_workers_killed_at_random_times_change_nothing(forty, quiet_forty):
    dice, over, killed = random.Random(0), threading.Event(), []

    def kill_now_and_then():
        while not over.wait(dice.uniform(1.0, 4.0)):
            workers = sorted(forty.processes("Trainable"))
            if workers:
                killed.append(dice.choice(workers))
                os.kill(killed[-1], signal.SIGKILL)

    driver = forty.start("run", "hurt.py", "--name", NAME, *EVER_AGAIN)
    driver.until("0/40 trials ended")
    killer = threading.Thread(target=kill_now_and_then)
    killer.start()
    try:
        status, said = driver.end()
    finally:
        over.set()
        killer.join()
    assert (status, said) == (0, "")
    assert len(killed) >= 5
    assert any("its worker was lost" in line for line in driver.seen)
    require_whole(forty)
    assert numbers(forty) == numbers(quiet_forty)


def test_a_driver_killed_ten_times_loses_and_doubles_nothing(forty, quiet_forty):
    dice, command, kills = random.Random(1), ["run", "hurt.py", "--name", NAME], 0
    while kills < 10:
        driver = forty.start(*command)
        driver.until("searching" if kills % 2 else "/40 trials ended")
        time.sleep(dice.uniform(0.0, 5.0))
        driver.process.kill()
        assert driver.end()[0] == -signal.SIGKILL, "it was done before it could be killed ten times"
        kills += 1
        require_gone(forty)
        settled = ended(forty.trials())
        before = {key: run for key, run in forty.runs().items() if key in settled and run["status"] == "FINISHED"}
        command = ["resume", NAME]
    done = forty.run(*command)
    assert done.returncode == 0, done.stderr
    require_whole(forty)
    require_untouched(before, forty.runs(), before)
    assert numbers(forty) == numbers(quiet_forty)
