"""What every kind of cluster does, and what it is given to run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True, slots=True)
class Submission:
    """A sweep for a cluster to run, or to go on with.

    Attributes:
        name: The sweep's name.
        storage: The folder of the sweeps, as the cluster's machines name it.
        command: The arguments of ``alignray``: ``("run", "quickstart", "--name", "first")``, or those of ``resume``.
            The name is among them, ``--address`` is not: where the cluster is, it knows itself.
    """

    name: str
    storage: str
    command: tuple[str, ...]


class Cluster(Protocol):
    """A place for sweeps, driven through the commands of those who made it. What these say is passed on as it comes."""

    def up(self) -> None:
        """Start the cluster; one that is there is left as it is.

        Raises:
            SweepError: Its configuration or its program is missing.
            WorkError: It does not start.
        """
        ...

    def status(self) -> None:
        """Show the cluster's machines and its sweeps.

        Raises:
            SweepError: Its configuration or its program is missing.
            WorkError: It does not answer.
        """
        ...

    def submit(self, sweep: Submission) -> int:
        """Run a sweep in the cluster and follow its log, or follow the log of one of that name that runs there already.

        The sweep goes on whatever becomes of this process.

        Returns:
            The exit status of the sweep.

        Raises:
            SweepError: Its configuration or its program is missing.
            WorkError: The cluster does not answer, or the log was left before the sweep's end.
        """
        ...

    def down(self) -> None:
        """End the cluster and all that runs in it; what is in the storage stays.

        Raises:
            SweepError: Its configuration or its program is missing.
            WorkError: It does not end.
        """
        ...
