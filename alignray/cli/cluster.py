"""``alignray cluster``: starting clusters, giving them sweeps, looking at them, and ending them."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignray.cli.commands import resume, run

if TYPE_CHECKING:
    from alignray.launch.clusters import Cluster, Submission

_KIND = click.argument("kind")
_SENT = {"run": run, "resume": resume}


@click.group()
def cluster() -> None:
    """Start, look at and end a cluster, and give it sweeps.

    KIND is local, on-premises, aws, gcp, kubernetes or slurm, or a folder like theirs that is your own.
    """


@cluster.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--from", "source", required=True, metavar="KIND", help="The cluster to start from.")
def new(folder: Path, source: str) -> None:
    """Write FOLDER, a cluster of your own that starts as KIND."""
    from alignray.launch.clusters import new_cluster

    new_cluster(folder, source)
    click.echo(f"{folder}: alignray cluster up {folder}")


@cluster.command()
@_KIND
def up(kind: str) -> None:
    """Start the cluster KIND."""
    _open(kind).up()


@cluster.command()
@_KIND
def status(kind: str) -> None:
    """Show the machines of the cluster KIND, and its sweeps."""
    _open(kind).status()


@cluster.command(context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
@_KIND
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED, metavar="run|resume …")
def submit(kind: str, command: tuple[str, ...]) -> None:
    """Run a sweep in the cluster KIND: what `alignray run` and `alignray resume` take, and their log follows.

    The sweep goes on whatever becomes of this command. Given again while it runs, it follows the same sweep.
    """
    code = _open(kind).submit(submission(command))
    if code:
        sys.exit(code)


@cluster.command()
@_KIND
def down(kind: str) -> None:
    """End the cluster KIND. What sweeps have written stays in their storage."""
    _open(kind).down()


def _open(kind: str) -> Cluster:
    from alignray.launch.clusters import open_cluster

    return open_cluster(kind)


def submission(command: Sequence[str]) -> Submission:
    """The sweep that a command line of ``alignray run`` or ``alignray resume`` means, which is checked here already.

    Raises:
        click.UsageError: It is none of the two, is wrong, names a cluster of its own, or shows a password.
    """
    from alignray.launch.clusters import Submission
    from alignray.tracking import without_password

    verb, *arguments = command
    if verb not in _SENT:
        raise click.UsageError(f"expected run or resume, and what they take, got {verb!r}")
    given = _SENT[verb].make_context(verb, list(arguments)).params
    if given["address"] is not None:
        raise click.UsageError("--address: leave it out; the sweep runs in the cluster that it is submitted to")
    uri = given["tracking_uri"]
    if uri is not None and without_password(uri) != uri:
        raise click.UsageError(
            "--tracking-uri: a command in a cluster is shown to all who use it, and a password with it; leave the "
            "password out, and keep it on the cluster's head, in ~/.mlflow/credentials or ~/.pgpass"
        )
    name = given["name"]
    if name is None:
        called = Path(given["sweep"]).name.removesuffix(".py").rpartition(".")[2]  # my_pkg.my_sweep, or a path
        name = f"{called}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
        command = (*command, "--name", name)
    return Submission(name=name, storage=given["storage"], command=tuple(command))
