"""Sweeps submitted to a cluster of `alignray cluster up`: their client is killed, machines come and go."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from optuna.trial import TrialState
from records import require_whole
from rig import NAME, ROOT, until
from submitted import SubmittedRig, raylet_of

LOOPBACK = {"127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"}
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    rig = SubmittedRig(tmp_path_factory.mktemp("submitted"))
    try:
        done = rig.cluster("up")
        assert done.returncode == 0, done.stderr
        assert "the cluster is up" in done.stdout
        yield rig
    finally:
        rig.end()


@pytest.fixture(scope="module")
def token(cluster):
    return cluster.token_file.read_text().strip()


def answer(url, headers):
    """The status of a request to the dashboard."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=10) as response:
            return response.status
    except urllib.error.HTTPError as error:
        return error.code


def listening(rig):
    """The addresses that the processes of a rig's cluster listen at."""
    sockets = subprocess.run(["ss", "-Hltnp"], capture_output=True, text=True, check=True).stdout.splitlines()
    ours = {str(process) for process in rig.processes()}
    return {line.split()[3] for line in sockets if ours & set(re.findall(r"pid=(\d+)", line))}


def connected(cluster, **environment):
    """Whether a driver gets into the cluster."""
    code = f"import ray; ray.init('127.0.0.1:{cluster.port}', log_to_driver=False); print('in')"
    process = [sys.executable, "-c", code]
    environment = {**cluster.environment(), **environment}
    try:
        done = subprocess.run(process, env=environment, capture_output=True, text=True, timeout=60, check=False)
    except subprocess.TimeoutExpired:  # Ray may knock on and on
        return False
    return "in" in done.stdout.split()


def test_the_token_is_made_for_its_owner_alone(cluster, token):
    assert re.fullmatch(r"[0-9a-f]{64}", token)
    assert stat.S_IMODE(cluster.token_file.stat().st_mode) == 0o600


def test_what_is_up_is_left_as_it_is(cluster, token):
    again = cluster.cluster("up")
    assert (again.returncode, again.stderr) == (0, "")
    assert "up already" in again.stdout
    assert cluster.token_file.read_text().strip() == token


def test_nobody_without_the_token_is_let_in(cluster, token, tmp_path):
    jobs = f"http://127.0.0.1:{cluster.dashboard}/api/jobs/"
    assert answer(jobs, {"Authorization": f"Bearer {token}"}) == 200
    assert answer(jobs, {}) == 401
    assert answer(jobs, {"Authorization": f"Bearer {'0' * 64}"}) == 403
    assert connected(cluster, RAY_AUTH_MODE="token")
    assert not connected(cluster, RAY_AUTH_MODE="disabled")
    assert not connected(cluster, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="0" * 64)


def test_a_sweep_outlives_its_client_and_the_machines_that_leave(cluster, token):
    lost = cluster.add_node()
    client = cluster.submit("run", "hurt.py", "--name", NAME)
    client.until("runs in the cluster, whatever becomes of this command")
    client.until("1/6 trials ended")
    client.process.kill()
    client.end()

    os.kill(raylet_of(lost), signal.SIGKILL)
    cluster.add_node()
    shown = cluster.cluster("status")
    assert f"sweep  {NAME}  running  alignray run hurt.py --name {NAME}" in shown.stdout, shown.stderr

    again = cluster.submit("run", "hurt.py", "--name", NAME)  # followed, not doubled
    status, said = again.end()
    assert (status, said) == (0, "")
    output = "".join(again.seen)
    assert "runs in the cluster already" in output
    assert "the arms on the sealed holdout" in output
    require_whole(cluster)
    shown = cluster.cluster("status")
    assert shown.stdout.count("\nsweep  ") == 1, shown.stderr


@pytest.fixture(scope="module")
def finished(cluster):
    until(lambda: (cluster.folder / "report.html").exists(), "the end of the sweep", 1.0)


def test_resume_finds_the_sweep_again_inside_and_outside_of_the_cluster(cluster, finished):
    before = cluster.trials()
    for resumed in (cluster.cluster("submit", "resume", NAME), cluster.run("resume", NAME)):
        assert resumed.returncode == 0, resumed.stderr
        assert "the arms on the sealed holdout" in resumed.stdout
    assert cluster.trials() == before
    assert {trial.state for trial in before.values()} == {TrialState.COMPLETE}


def test_the_exit_status_is_that_of_the_sweep(cluster, finished):
    taken = cluster.cluster("submit", "run", "hurt.py", "--name", NAME)
    assert taken.returncode == 2
    assert f"alignray resume {NAME}" in taken.stdout


def test_the_token_is_nowhere_but_in_its_file(cluster, token, finished):
    assert token not in cluster.cluster("status").stdout
    for folder in (cluster.home, cluster.temp):
        for path in folder.rglob("*"):
            if path.is_file() and path != cluster.token_file:
                assert token.encode() not in path.read_bytes(), path


def test_down_ends_what_up_started(cluster, finished):
    ended = cluster.cluster("down")
    assert (ended.returncode, ended.stdout) == (0, "the cluster is down\n")
    assert cluster.cluster("down").stdout == "the cluster is not up\n"
    gone = cluster.cluster("status")
    assert gone.returncode == 1
    assert "no cluster answers" in gone.stderr


def test_the_commands_of_the_page_run_in_their_order_on_the_loopback_alone(tmp_path):
    rig = SubmittedRig(tmp_path, joinable=False)
    small = ["--trials=2", "--set=trial.training.epochs=2", "--set=trial.members=1", "--set=holdout.members=1"]
    page = (ROOT / "docs" / "cluster" / "local.md").read_text()
    lines = [line for line in page.splitlines() if line.startswith("alignray cluster ")]
    assert [line.split()[2] for line in lines] == ["up", "status", "submit", "submit", "down", "new"]
    try:
        for line in lines:
            words = [str(rig.kind) if word == "local" and "new" not in line else word for word in line.split()[1:]]
            done = rig.run(*words, *(small if "quickstart" in line else ()))
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if "status" in line:
                found = listening(rig)
                assert f"127.0.0.1:{rig.dashboard}" in found
                assert {address.rpartition(":")[0] for address in found} <= LOOPBACK
    finally:
        rig.end()
    assert (tmp_path / "runs" / "first" / "report.html").exists()
