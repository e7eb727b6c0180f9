"""`cluster/on-premises` for real: Ray's launcher starts a head and a worker over ssh, and one of them is lost."""

from __future__ import annotations

import getpass
import os
import re
import signal
import stat
import time
from collections import Counter

import pandas as pd
import pytest
from machines import machines, why_no_machines

import alignray as ar
from alignray.launch import open_result

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(why_no_machines() is not None, reason=str(why_no_machines())),
]

_SWEEP = """
import alignray as ar

def sweep():
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    return ar.SweepConfig(
        template="remote",
        data=ar.DataConfig(source="PANEL"),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="corr"),
            model=ar.ModelConfig(family="mlp", depth=2, width=32),
            training=ar.TrainingConfig(epochs=20, patience=20, eras_per_batch=8),
            split=ar.SplitConfig(folds=1, embargo=2),
            members=2,
        ),
        space=ar.Space({"training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True)}),
        arms=("aligned", "mse"),
        search=ar.SearchConfig(trials=4, initial_points=4),
        scheduler=ar.SchedulerConfig(name="fifo"),
        resources=ar.ResourceConfig(checkpoint_every=2),
        holdout=ar.HoldoutConfig(eras=12, members=1),
    )
"""


def ended(process, timeout=300):
    output, _ = process.communicate(timeout=timeout)
    return process.returncode, output


@pytest.fixture(scope="module")
def site():
    """A head and a worker, and a user's machine with the cluster's folder and a sweep in its home."""
    with machines(2) as made:
        panel = ar.datasets.synthetic(num_eras=60, rows=120, num_features=8, seed=0)
        ar.write_shards(panel, made.shared / "panel", eras_per_shard=20)
        (made.home(0) / "remote.py").write_text(_SWEEP.replace("PANEL", str(made.shared / "panel")))
        yield made


def alignray(site, *arguments):
    return site.popen(str(site.shared / "alignray/bin/alignray"), *arguments)


def test_from_nothing_to_a_sweep_to_resume_to_the_end(site):
    assert ended(alignray(site, "cluster", "new", "mine", "--from", "on-premises"))[0] == 0
    file = site.home(0) / "mine" / "cluster.yaml"
    text = file.read_text()
    for shipped, here in {
        "cluster_name: alignray": f"cluster_name: {site.folder.name}",
        "192.168.0.10": site.address(1),
        "192.168.0.11, 192.168.0.12": site.address(2),
        "ssh_user: me": f"ssh_user: {getpass.getuser()}",
        "~/.ssh/id_ed25519": str(site.folder / "key"),
        "/shared/": f"{site.shared}/",
    }.items():
        assert shipped in text
        text = text.replace(shipped, here)
    file.write_text(text)

    status, output = ended(alignray(site, "cluster", "up", "mine"))
    assert status == 0, output
    deadline = time.monotonic() + 400
    while not machine_lines(shown := ended(alignray(site, "cluster", "status", "mine"))[1], 2):
        assert time.monotonic() < deadline, shown + launcher_log(site)
        time.sleep(2)
    assert re.search(rf"machine  {re.escape(site.address(2))}  ", shown), shown
    token = (site.home(0) / ".ray" / "auth_token").read_text()
    for number in (0, 1, 2):
        file = site.home(number) / ".ray" / "auth_token"
        assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == (token, 0o600)
    assert "up already" in ended(alignray(site, "cluster", "up", "mine"))[1]

    sweep = ("--name", "first", "--storage", str(site.shared / "runs"))
    client = alignray(site, "cluster", "submit", "mine", "run", "remote.py", *sweep)
    seen = []
    for line in client.stdout:
        seen.append(line)
        if "1/8 trials ended" in line:
            break
    else:
        raise AssertionError("".join(seen))
    os.killpg(client.pid, signal.SIGKILL)
    client.communicate()
    site.kill(2)

    status, output = ended(alignray(site, "cluster", "submit", "mine", "resume", *sweep[1:]))
    assert status == 0, output
    assert "runs in the cluster already" in output
    assert "the arms on the sealed holdout" in output
    result = open_result("first", storage=site.shared / "runs")
    assert dict(Counter(result.trials["arm"])) == {"aligned": 4, "mse": 4}
    assert set(result.trials["state"]) == {"complete"}
    comparison = pd.read_csv(site.shared / "runs" / "first" / "comparison.csv")
    assert set(comparison["arm"]) == {"aligned", "mse"}

    assert not token_found(site, token, output)
    status, output = ended(alignray(site, "cluster", "down", "mine"))
    assert status == 0, output
    assert ended(alignray(site, "cluster", "status", "mine"))[0] == 1


def machine_lines(shown, count):
    return len(re.findall(r"^machine ", shown, re.MULTILINE)) == count


def launcher_log(site):
    """What the head's autoscaler says of the workers."""
    logs = (site.folder / "ray1" / "ray" / "session_latest" / "logs").glob("monitor.*")
    return "\n".join(path.read_text(errors="replace")[-3_000:] for path in logs)


def token_found(site, token, output):
    """Where the token is, but in its files."""
    files = [path for path in site.folder.rglob("*") if path.is_file() and path.name != "auth_token"]
    return [str(path) for path in files if token.encode() in path.read_bytes()] + (
        ["output"] if token in output else []
    )
