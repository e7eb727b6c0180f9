"""A throw-away Slurm for tests: Debian's daemons in a temporary folder, on free ports of this machine's loopback."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ports import free_ports

_DAEMONS = ("munged", "slurmctld", "slurmd")
_SBIN = "/usr/sbin:/sbin"
_NODES = ("one", "two")
_PATIENCE_S = 60.0
_CONFIGURATION = """
ClusterName=alignray
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
ReturnToService=2
SchedulerParameters=sched_interval=1
KillWait=10
FirstJobId={first}
NodeName={nodes} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]},{ports[2]} CPUs=2 State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
"""


@dataclass(frozen=True)
class Slurm:
    """A Slurm of two nodes, both this machine.

    Attributes:
        folder: Its configuration, state and logs.
    """

    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What tells Slurm's commands, and no other, where it is."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        done = subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def state(self, job: str) -> str:
        """The state of a job, also of one that has just ended."""
        found = re.search(r"JobState=(\w+)", self.call("scontrol", "show", "job", job))
        assert found is not None
        return found[1]


def why_no_slurm() -> str | None:
    """Why none can be started here; None where one can."""
    missing = [name for name in _DAEMONS if shutil.which(name, path=_SBIN) is None]
    if missing:
        return f"no {', '.join(missing)} (Debian's packages slurm-wlm and munge)"
    return "Slurm's daemons start as root" if os.geteuid() != 0 else None


@contextlib.contextmanager
def running_slurm() -> Iterator[Slurm]:
    """A Slurm with two idle nodes, gone at the end, and all its jobs with it."""
    # Not below pytest's folders: a socket's path is short.
    slurm = Slurm(Path(tempfile.mkdtemp(prefix="alignray-slurm-")))
    slurm.folder.chmod(0o755)  # munge wants to be reached
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        _configure(slurm.folder)
        daemons.append(_start(slurm, "munged", "--foreground", *_munge_files(slurm.folder)))
        _until(lambda: (slurm.folder / "munge.socket").exists())
        daemons.append(_start(slurm, "slurmctld", "-D"))
        daemons += [_start(slurm, "slurmd", "-D", "-N", node) for node in _NODES]
        _until(lambda: slurm.call("sinfo", "--noheader", "--format=%T %D").strip() == f"idle {len(_NODES)}")
        yield slurm
    finally:
        _end(slurm, daemons)
        shutil.rmtree(slurm.folder, ignore_errors=True)


def _configure(folder: Path) -> None:
    key = folder / "munge.key"
    key.touch(mode=0o600)
    key.write_bytes(secrets.token_bytes(128))
    (folder / "state").mkdir()
    text = _CONFIGURATION.format(
        folder=folder,
        host=socket.gethostname(),
        ports=free_ports(3),
        nodes=",".join(_NODES),
        first=secrets.randbelow(5000) + 1,  # a job's number makes its ports
    )
    (folder / "slurm.conf").write_text(text)


def _munge_files(folder: Path) -> list[str]:
    files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
    return [f"--{option}={folder}/munge.{suffix}" for option, suffix in files.items()]


def _start(slurm: Slurm, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = shutil.which(name, path=_SBIN)
    assert program is not None
    with (slurm.folder / f"{name}.output").open("ab") as log:
        return subprocess.Popen(
            [program, *arguments], env=os.environ | slurm.environment, stdout=log, stderr=log, start_new_session=True
        )


def _end(slurm: Slurm, daemons: list[subprocess.Popen[bytes]]) -> None:
    with contextlib.suppress(AssertionError, OSError):
        for job in slurm.call("squeue", "--noheader", "--format=%i").split():
            slurm.call("scancel", job)
        _until(lambda: not slurm.call("squeue", "--noheader"))
    for daemon in reversed(daemons):
        daemon.terminate()
        try:
            daemon.wait(_PATIENCE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        with contextlib.suppress(AssertionError):  # the daemon that answers is not there yet
            if condition():
                return
        assert time.monotonic() < deadline, "Slurm did not get there"
        time.sleep(0.2)
