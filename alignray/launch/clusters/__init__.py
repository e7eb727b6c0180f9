"""The clusters that sweeps are sent to: started, looked at, given sweeps, and ended."""

from __future__ import annotations

import shutil
from pathlib import Path

from alignray.errors import SweepError
from alignray.launch.clusters.protocol import Cluster, Submission
from alignray.launch.shipped import shipped

__all__ = ["Cluster", "Submission", "list_clusters", "new_cluster", "open_cluster"]

_TELLING = ("ray-start.yaml", "cluster.yaml", "kustomization.yaml", "sweep.sbatch")
"""The file by which a folder is known to describe a cluster, one a kind."""


def list_clusters() -> dict[str, Path]:
    """The clusters that come with alignray, by name."""
    there = sorted(shipped("clusters", beside="cluster").iterdir())
    return {path.name: path for path in there if path.is_dir() and _told_by(path)}


def new_cluster(folder: Path, source: str) -> None:
    """Write a folder of the user's own that starts as a cluster that comes with alignray.

    Raises:
        SweepError: There is no such cluster, or the folder is there already, or cannot be written.
    """
    known = list_clusters()
    if source not in known:
        raise SweepError(f"no cluster {source!r}; expected one of {', '.join(known)}")
    try:
        shutil.copytree(known[source], folder)
    except FileExistsError:
        raise SweepError(f"{folder}: is there already and is left as it is; choose another name") from None
    except OSError as error:
        raise SweepError(f"{folder}: cannot be written ({error.strerror})") from error


def open_cluster(kind: str) -> Cluster:
    """The cluster that a folder describes.

    Args:
        kind: The name of one that comes with alignray (``local``), or the path of a folder like them, of one's own.

    Raises:
        SweepError: There is no such folder, or nothing in it describes a cluster.
    """
    known = list_clusters()
    folder = known.get(kind, Path(kind))
    if not folder.is_dir():
        raise SweepError(f"no cluster {kind!r}; expected one of {', '.join(known)}, or a folder like theirs")
    told = _told_by(folder)
    if told == "ray-start.yaml":
        from alignray.launch.clusters.local import LocalCluster

        return LocalCluster(kind=kind, options=folder / told)
    if told == "cluster.yaml":
        from alignray.launch.clusters.launcher import LauncherCluster

        return LauncherCluster(kind=kind, config=folder / told)
    if told == "kustomization.yaml":
        from alignray.launch.clusters.kubernetes import KubernetesCluster

        return KubernetesCluster(kind=kind, folder=folder)
    if told == "sweep.sbatch":
        from alignray.launch.clusters.slurm import SlurmCluster

        return SlurmCluster(kind=kind, script=folder / told)
    raise SweepError(f"cluster {kind!r}: expected one of the files {', '.join(_TELLING)} in {folder}, got none")


def _told_by(folder: Path) -> str | None:
    """The file that tells what a folder describes."""
    return next((name for name in _TELLING if (folder / name).is_file()), None)
