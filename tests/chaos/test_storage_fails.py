"""The storage under a sweep fails: it stops and says why, and goes on from what was kept."""

import contextlib
import os
import signal
import subprocess

import pytest
from records import ended, numbers, require_whole
from rig import NAME, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]


@pytest.fixture
def small_disk(rig):
    """A disk of 32 MB for the sweep's folder alone."""
    folder = rig.home / "runs"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=32m", "tmpfs", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"no small disk can be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    for process in rig.processes():
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_which_goes_on_when_there_is_room(rig, quiet, small_disk):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until("[1-9]/6 trials ended")
    filler = small_disk / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    status, said = driver.end()
    print(said, driver.seen)
    assert status == 1, said
    (line,) = said.splitlines()
    assert "No space left on device" in line
    assert f"alignray resume {NAME}" in line
    until(lambda: not rig.processes(), "the end of every process of Ray", timeout_s=60)
    filler.unlink()
    assert len(ended(rig.trials())) < len(rig.keys)

    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.3, 0.9])
def test_a_study_file_cut_short_costs_the_trials_that_it_lost(rig, quiet, kept):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until("[2-9]/6 trials ended")
    driver.process.kill()
    driver.end()
    # Ray's two agents take their time to see that nobody is there any more.
    until(lambda: all("Agent" in title for title in rig.processes().values()), "the end of Ray", timeout_s=60)
    journal = rig.folder / "optuna.journal"
    content = journal.read_bytes()
    os.truncate(journal, int(kept * len(content)))
    before = rig.runs()

    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)
    after = rig.runs()
    assert {key: run["id"] for key, run in before.items()} == {key: after[key]["id"] for key in before}
