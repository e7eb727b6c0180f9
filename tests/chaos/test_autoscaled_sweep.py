"""A sweep on a cluster that grows and shrinks, and loses a machine: what is lost is no more than since a checkpoint."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from records import require_whole
from rig import NAME, ROOT

CHECKPOINT_EVERY = 4  # of the rig's sweep
UNSHARE = ["unshare", "-npf", "--mount-proc", "--kill-child"]


def there_are_namespaces():
    return bool(shutil.which("unshare")) and not subprocess.run([*UNSHARE, "true"], capture_output=True).returncode


pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not there_are_namespaces(), reason="no namespaces for this user"),
]


def test_a_cluster_grows_for_a_sweep_replaces_a_preempted_machine_and_shrinks(new_rig):
    rig = new_rig(16)  # so long that there is still something to do when a machine has been replaced
    within = f"ip link set lo up && exec {sys.executable} {Path(__file__).with_name('autoscaled.py')} {NAME}"
    environment = {name: value for name, value in rig.environment().items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [*UNSHARE, "sh", "-c", within],
        cwd=rig.home,
        env={**environment, "RAY_USAGE_STATS_ENABLED": "0", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    said = (rig.home / "driver.log").read_text()
    assert done.returncode == 0, f"{done.stdout}{done.stderr[-4000:]}{said}"
    assert re.findall("grown|preempted|replaced|status 0|shrunk", done.stdout) == [
        "grown",
        "preempted",
        "replaced",
        "status 0",
        "shrunk",
    ], done.stdout
    require_whole(rig)
    again = [back for log in (rig.folder / "logs").glob("*.log") for back in repeated(log.read_text())]
    assert again, "no trial lost its machine"
    assert max(again) <= CHECKPOINT_EVERY


def repeated(log):
    """How many epochs a trial trained again each time that it was started again."""
    last, found = 0, []
    for line in log.splitlines():
        if epoch := re.search(r"  epoch (\d+),", line):
            last = int(epoch[1])
        elif begun := re.search(r"  (?:goes on after epoch (\d+)|started) on ", line):
            found += [last - int(begun[1] or 0)] if last else []
    return found
