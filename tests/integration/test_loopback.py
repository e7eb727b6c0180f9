"""Ray's processes, where a sweep starts them on this machine, can be reached from this machine alone."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from small_sweep import environment

pytestmark = pytest.mark.ray
LOOPBACK = {"0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"}
"""127.0.0.1, ::1, and 127.0.0.1 as IPv6 has it, as the kernel writes them."""


SCRIPT = """
from alignray.sweep import ray_cluster
import ray

with ray_cluster(None):
    print(ray.get(ray.remote(ray.util.get_node_ip_address).remote()), flush=True)
    input()
"""


def marked(mark: str) -> set[str]:
    """The living processes that have a mark in their environment, or were started by one that has."""
    found, parents = set(), {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[folder.name] = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            if mark.encode() in (folder / "environ").read_bytes():
                found.add(folder.name)
        except OSError:
            continue
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def listening(pids: set[str]) -> dict[str, str]:
    """The local addresses that processes listen on, each with the name of the process."""
    owners = {}
    for pid in pids:
        try:
            name = Path(f"/proc/{pid}/comm").read_text().strip()
            owners |= {os.readlink(handle): name for handle in Path(f"/proc/{pid}/fd").iterdir()}  # noqa: PTH115
        except OSError:
            continue
    found = {}
    for file in filter(Path.exists, (Path("/proc/net/tcp"), Path("/proc/net/tcp6"))):
        for fields in map(str.split, file.read_text().splitlines()[1:]):
            owner = owners.get(f"socket:[{fields[9]}]")
            if fields[3] == "0A" and owner is not None:
                found[fields[1]] = owner
    return found


def test_ray_on_this_machine_listens_on_the_loopback_alone_and_its_token_is_the_users_alone(tmp_path: Path) -> None:
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT],
        cwd=tmp_path,
        env={**environment(), "ALIGNRAY_TEST_LOOPBACK": mark, "HOME": str(tmp_path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout.readline() == "127.0.0.1\n"
        found = listening(marked(mark))
        assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600
    finally:
        process.communicate("\n", timeout=120)
    assert process.returncode == 0
    owners = set(found.values())
    for name in ("gcs_server", "raylet", "ray::"):
        assert any(owner.startswith(name) for owner in owners), owners
    assert {at: owner for at, owner in found.items() if at.partition(":")[0] not in LOOPBACK} == {}
