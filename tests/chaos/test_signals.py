"""Real signals to a real sweep: what was finished is kept, and going on loses and doubles nothing."""

import json
import os
import re
import signal

import pytest
from optuna.trial import TrialState
from records import ended, numbers, require_untouched, require_whole
from rig import ARMS, EPOCHS, NAME, until

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


def test_ctrl_c_keeps_what_was_finished_and_says_how_to_go_on(rig):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until(r"[1-9]/6 trials ended")
    os.killpg(driver.process.pid, signal.SIGINT)  # as a terminal does: to everything in the foreground
    status, said = driver.end()
    assert status == 1, said
    (line,) = said.splitlines()
    told = re.fullmatch(rf"alignray: stopped; (\d) trials? .* kept\. Go on with: alignray resume {NAME}", line)
    assert told, line
    until(lambda: not rig.processes(), "the end of every process of Ray", timeout_s=30)

    trials, runs = rig.trials(), rig.runs()
    finished = ended(trials)
    assert 1 <= len(finished) == int(told[1]) < len(rig.keys)
    assert {trials[key].state for key in finished} == {TrialState.COMPLETE}
    assert {trials[key].state for key in set(trials) - finished} <= {TrialState.RUNNING}
    assert {NAME, *finished} <= set(runs) <= {NAME, *trials}
    assert runs[NAME]["status"] == "KILLED"
    for key in finished:
        assert (runs[key]["status"], runs[key]["tags"]["alignray.state"]) == ("FINISHED", "complete")
        assert len(runs[key]["metrics"]["train/loss"]) == EPOCHS
    assert not (rig.folder / "comparison.csv").exists()

    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    assert f"{len(finished)}/6 trials ended" in done.stdout  # it counts from there
    assert "report.html" in done.stdout
    require_whole(rig)
    require_untouched(runs, rig.runs(), finished)
    assert json.loads((rig.folder / "manifest.json").read_text())["holdout_looks"] == dict.fromkeys(ARMS, 1)


@pytest.mark.slow
def test_two_interruptions_end_where_a_quiet_sweep_ends(rig, quiet):
    command = ["run", "hurt.py", "--name", NAME, "--resume"]
    for turn, asked in enumerate((signal.SIGINT, signal.SIGTERM)):
        driver = rig.start(*command)
        driver.until(rf"[{turn + 1}-9]/6 trials ended")
        driver.process.send_signal(asked)
        status, said = driver.end()
        assert (status, len(said.splitlines())) == (1, 1), said
        until(lambda: not rig.processes(), "the end of every process of Ray", timeout_s=30)
    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_epochs_since_the_one_before_and_is_told_of(rig, quiet):
    checkpoints = rig.folder / "tune" / "checkpoints"
    driver = rig.start("run", "hurt.py", "--name", NAME)
    until(lambda: [path for path in checkpoints.glob("*/*.safetensors") if path.stem > "00000004"], "a checkpoint")
    driver.process.send_signal(signal.SIGINT)
    status, said = driver.end()
    assert status == 1, said
    until(lambda: not rig.processes(), "the end of every process of Ray", timeout_s=30)
    harmed = [max(folder.iterdir()) for folder in checkpoints.iterdir() if len(list(folder.iterdir())) == 2]
    assert harmed
    for path in harmed:
        path.write_bytes(path.read_bytes()[:-7])

    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    for path in harmed:
        earlier = int(path.stem) - 4
        assert f"{path.parent.name}: it goes on after epoch {earlier}, as a later checkpoint is damaged" in done.stdout
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)


@pytest.mark.slow
@pytest.mark.parametrize("at", [r"searching", r"[1-9]/6 trials ended", r"[4-9]/6 trials ended", "afresh", "is scored"])
def test_a_driver_that_is_killed_loses_nothing(rig, quiet, at):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until(at)
    driver.process.kill()
    status, _ = driver.end()
    assert status == -signal.SIGKILL
    # Ray's two agents take their time to see that nobody is there any more.
    until(lambda: all("Agent" in title for title in rig.processes().values()), "the end of Ray", timeout_s=60)
    finished = ended(rig.trials()) if (rig.folder / "optuna.journal").exists() else set()
    before = rig.runs() if (rig.home / "mlflow.db").exists() and finished else {}
    settled = {key for key in finished if before.get(key, {}).get("status") == "FINISHED"}

    done = rig.run("resume", NAME)
    assert done.returncode == 0, done.stderr
    require_whole(rig)
    require_untouched(before, rig.runs(), settled)
    assert numbers(rig) == numbers(quiet)


def victim(rig, name, trials=1):
    """A process of that name, once so many trials have made a few steps."""
    until(lambda: sum(len(t.intermediate_values) > 5 for t in rig.trials().values()) >= trials, "a few epochs")
    return until(lambda: rig.processes(name), f"a process {name}").popitem()[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Trainable", "ray::Tracker"])
def test_a_worker_that_is_killed_costs_time_alone(rig, quiet, name):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until("0/6 trials ended")
    os.kill(victim(rig, name), signal.SIGKILL)
    driver.until("[2-9]/6 trials ended")
    os.kill(victim(rig, name, trials=3), signal.SIGKILL)
    status, said = driver.end()
    assert (status, said) == (0, "")
    warned = [line for line in driver.seen if "its worker was lost" in line]
    assert len(warned) == (2 if name == "Trainable" else 0)
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)


@pytest.mark.slow
def test_a_final_model_whose_worker_is_killed_is_trained_again(rig, quiet):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until("afresh")
    os.kill(until(lambda: rig.processes("ray::_train_final"), "a final model").popitem()[0], signal.SIGKILL)
    status, said = driver.end()
    assert (status, said) == (0, "")
    require_whole(rig)
    assert numbers(rig) == numbers(quiet)


@pytest.mark.slow
def test_a_sweep_that_runs_is_not_driven_twice(rig):
    driver = rig.start("run", "hurt.py", "--name", NAME)
    driver.until("0/6 trials ended")
    done = rig.run("resume", NAME)
    assert done.returncode == 2
    assert "is running" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    looked = rig.run("compare", NAME)
    assert looked.returncode == 2
    assert "no comparison yet" in looked.stderr
    assert driver.end() == (0, "")
    require_whole(rig)
