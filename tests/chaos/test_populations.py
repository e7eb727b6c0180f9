"""Population based training under signals: what each trial takes of whom, and every number, stay what they are."""

import signal

import pytest
from records import numbers
from rig import NAME, until

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

COMMAND = ["run", "hurt.py", "--name", NAME]
for setting in ("search.sampler=random", "scheduler.name=pbt", "scheduler.perturb_every=8"):
    COMMAND += ["--set", setting]


def exploits(rig):
    return {key: trial.user_attrs.get("exploits", []) for key, trial in rig.trials().items()}


@pytest.fixture(scope="module")
def population(new_rig):
    """The sweep, left alone."""
    rig = new_rig(4)
    done = rig.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    until(lambda: not rig.processes(), "the end of its processes")
    assert len({each["epoch"] for of_trial in exploits(rig).values() for each in of_trial}) == 3
    return rig


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interruption_changes_nothing(how, population, new_rig):
    rig = new_rig(4)
    driver = rig.start(*COMMAND)
    driver.until("0/8 trials ended")
    until(lambda: any(max(t.intermediate_values, default=0) > 13 for t in rig.trials().values()), "a second segment")
    driver.process.send_signal(how)
    assert driver.end()[0] != 0
    until(lambda: all("Agent" in title for title in rig.processes().values()), "the end of Ray", timeout_s=60)
    assert "Tune has ended it" not in rig.run("doctor", NAME).stdout
    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    assert exploits(rig) == exploits(population)
    assert numbers(rig) == numbers(population)
