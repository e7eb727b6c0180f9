"""Machines on this machine: each has its own network, processes, home and ssh server, and they share a folder.

They are namespaces of Linux's, on a bridge. Nothing in them is seen from outside, so that ports are free and ``ray
stop`` ends what is the machine's own; and a machine that is killed is gone at once, with all that ran on it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("ip", "unshare", "nsenter", "ssh", "ssh-keygen", "rsync")
_SSHD = Path("/usr/sbin/sshd")


def why_no_machines() -> str | None:
    """Why there can be none here; None where there can."""
    if missing := [name for name in NEEDED if shutil.which(name) is None]:
        return f"no {', '.join(missing)} (Debian's packages iproute2, util-linux, openssh-client, rsync)"
    if not _SSHD.exists():
        return "no sshd (Debian's package openssh-server)"
    if not Path(sys.executable).with_name("alignray").exists():
        return "alignray's command is not installed beside this Python"
    tried = subprocess.run(["unshare", "-npf", "--mount-proc", "true"], capture_output=True, text=True, check=False)
    return f"no namespaces for this user ({tried.stderr.strip()})" if tried.returncode else None


@dataclass
class Machines:
    """The machine of the user, at 10.77.0.254, and as many others as there are homes, at 10.77.0.1 and on.

    Attributes:
        folder: Where everything is, short enough for the names of Ray's sockets.
        pids: The first process of each machine; the user's has the number 0.
        outer: What started it.
    """

    folder: Path
    pids: dict[int, int] = field(default_factory=dict)
    outer: dict[int, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def shared(self) -> Path:
        return self.folder / "shared"

    def home(self, number: int) -> Path:
        return self.folder / f"home{number}"

    def address(self, number: int) -> str:
        return f"10.77.0.{number or 254}"

    def start(self, count: int) -> None:
        self.shared.mkdir()
        (self.shared / "alignray").symlink_to(sys.prefix)
        for name in ("key", "host_key"):
            subprocess.run(["ssh-keygen", "-qt", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        self._boot(0, ["sleep", "infinity"])
        self._on(0, "ip link add br0 type bridge", "ip addr add 10.77.0.254/24 dev br0", "ip link set br0 up")
        for number in range(1, count + 1):
            serve = f"exec {_SSHD} -D -e -f {self._sshd_config(number)}"
            self._boot(number, ["sh", "-ec", "\n".join([*self._homes(number), serve])])
            self._on(
                0,
                f"ip link add to{number} type veth peer name eth0 netns {self.pids[number]}",
                f"ip link set to{number} master br0 up",
            )
            self._on(
                number,
                "ip link set lo up",
                f"ip addr add {self.address(number)}/24 dev eth0",
                "ip link set eth0 up",
                "ip route add default via 10.77.0.254",
            )

    def environment(self, number: int) -> dict[str, str]:
        ray = self.folder / f"ray{number}"
        return {"HOME": str(self.home(number)), "RAY_TMPDIR": str(ray), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def popen(self, *command: str) -> subprocess.Popen[str]:
        """Run a command on the user's machine, in the user's home."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "MLFLOW_"))}
        return subprocess.Popen(
            ["nsenter", "-t", str(self.pids[0]), "-n", *command],
            cwd=self.home(0),
            env={**kept, **self.environment(0), "PYTHONUNBUFFERED": "1"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def kill(self, number: int) -> None:
        """The machine is gone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pids.pop(number), signal.SIGKILL)
        self.outer.pop(number).wait()

    def end(self) -> None:
        for number in list(self.pids):
            self.kill(number)

    def _boot(self, number: int, first: list[str]) -> None:
        self.home(number).mkdir()
        (self.home(number) / ".bashrc").touch()
        (self.folder / f"ray{number}").mkdir()
        log = (self.folder / f"machine{number}.log").open("wb")
        with log:
            outer = subprocess.Popen(
                ["unshare", "-mnpf", "--mount-proc", "--kill-child", *first],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
        while not (inner := children.read_text().split()):
            assert outer.poll() is None
        self.outer[number] = outer
        self.pids[number] = int(inner[0])

    def _homes(self, number: int) -> list[str]:
        """The machine's home takes the place of the user's, by which ssh goes; a Python within that stays there."""
        base, users, home = Path(sys.base_prefix), Path.home(), self.home(number)
        mounts = [f"mount --rbind {home} {users}"]
        if base.is_relative_to(users):
            there = home / base.relative_to(users)
            mounts = [f"mkdir -p {there}", f"mount --bind {base} {there}", *mounts]
        return mounts

    def _on(self, number: int, *commands: str) -> None:
        for command in commands:
            subprocess.run(["nsenter", "-t", str(self.pids[number]), "-n", *command.split()], check=True)

    def _sshd_config(self, number: int) -> Path:
        Path("/run/sshd").mkdir(exist_ok=True)
        setting = " ".join(f"{name}={value}" for name, value in self.environment(number).items())
        path = self.folder / f"sshd{number}.conf"
        path.write_text(
            f"HostKey {self.folder}/host_key\nAuthorizedKeysFile {self.folder}/key.pub\nStrictModes no\nPidFile none\n"
            f"PermitRootLogin prohibit-password\nPasswordAuthentication no\nUsePAM no\nSetEnv {setting}\n"
        )
        return path


@contextlib.contextmanager
def machines(count: int) -> Iterator[Machines]:
    """So many machines beside the user's, gone at the end."""
    made = Machines(Path(tempfile.mkdtemp(prefix="m-")))
    try:
        made.start(count)
        yield made
    finally:
        made.end()
        shutil.rmtree(made.folder, ignore_errors=True)
