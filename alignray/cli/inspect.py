"""Looking at templates and data."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar, Unpack

import click

if TYPE_CHECKING:
    from alignray.data import Columns

P = ParamSpec("P")
T = TypeVar("T")


@click.group()
def template() -> None:
    """Templates: reusable sweeps with their search spaces."""


@template.command("list")
def template_list() -> None:
    """List the templates that come with alignray."""
    from alignray.launch import find_sweep, list_templates

    for name, path in list_templates().items():
        config = find_sweep(name)
        first = next(line for line in path.read_text().splitlines() if line.strip()).strip('"')
        click.echo(f"{name:<16} {len(config.arms)} arms × {config.search.trials} trials  {first}")


@template.command("show")
@click.argument("name", metavar="T")
def template_show(name: str) -> None:
    """Print the whole configuration of template T, as JSON."""
    from alignray.configuration import to_plain
    from alignray.launch import find_sweep

    click.echo(json.dumps(to_plain(find_sweep(name)), indent=2))


_FILE = click.argument("file", type=click.Path(path_type=Path))


@template.command("new")
@_FILE
@click.option("--from", "source", required=True, metavar="T", help="The template to start from.")
def template_new(file: Path, source: str) -> None:
    """Write FILE, a sweep of your own that starts as template T; it runs at once."""
    from alignray.launch import new_template

    new_template(file, source)
    click.echo(f"{file}: alignray run {file}")


@template.command("from-run")
@click.argument("run_id")
@_FILE
@click.option("--tracking-uri", help="The MLflow store.  [default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db]")
def template_from_run(run_id: str, file: Path, tracking_uri: str | None) -> None:
    """Write FILE, the sweep that makes the MLflow run RUN_ID again: a trial, a final model, or a whole sweep."""
    from alignray.launch import sweep_of_run, sweep_source, write_template
    from alignray.tracking import resolve_tracking_uri

    config, about = sweep_of_run(run_id, resolve_tracking_uri(tracking_uri))
    write_template(file, sweep_source(replace(config, template=file.stem), about))
    click.echo(f"{file}: alignray run {file}")


@click.group()
def data() -> None:
    """Data sets."""


def _columns(command: Callable[P, T]) -> Callable[P, T]:
    """Give a command the options that say which columns of a file make a panel; see `alignray.data.Columns`."""
    options = (
        click.option("--era", default="era", show_default=True, help="The era column."),
        click.option("--target", default="target", show_default=True, help="The target column."),
        click.option("--features", default="feature_*", show_default=True, help="The features, a pattern."),
        click.option("--factors", help="The factors, a pattern.  [default: the features]"),
        click.option(
            "--id",
            default="id",
            show_default=True,
            callback=lambda _context, _option, value: value or None,
            help="The column that names a row; '' to read none.",
        ),
        click.option("--bins", type=click.IntRange(2, 127), help="Bins for features that are floats.  [default: none]"),
    )
    for option in reversed(options):
        command = option(command)
    return command


@data.command("check")
@click.argument("file")
@_columns
def data_check(file: str, **columns: Unpack[Columns]) -> None:
    """Say what is in FILE (parquet, Arrow, CSV, or a folder of shards), and what is wrong with it."""
    from alignray.cli.check import print_facts
    from alignray.data.check import check
    from alignray.errors import WorkError

    facts = check(file, **columns)
    print_facts(facts)
    refused = {problem.column for problem in facts.problems if problem.refused}
    if refused:
        raise WorkError(f"{file}: loading refuses it; columns that must be mended: {len(refused)}")


@data.command("shard")
@click.argument("file")
@click.argument("folder")
@click.option(
    "--eras-per-shard", type=click.IntRange(min=1), default=32, show_default=True, help="The eras in each file."
)
@_columns
def data_shard(file: str, folder: str, eras_per_shard: int, **columns: Unpack[Columns]) -> None:
    """Write FILE (parquet, Arrow or CSV) as shards to FOLDER, a path or a URL, to be opened in no time."""
    from alignray.cli.passing import watched
    from alignray.data import open_stream, write_shards
    from alignray.data.shards import read_manifest

    started = time.monotonic()
    stream = open_stream(file, eras_per_shard=eras_per_shard, **columns)
    with watched(stream) as eras:
        write_shards(eras, folder, eras_per_shard=eras_per_shard)
    seconds = time.monotonic() - started
    manifest = read_manifest(folder)
    megabytes = manifest.num_bytes / 1e6
    facts = {
        "eras": f"{manifest.num_eras} in {len(manifest.entries)} files",
        "rows": str(manifest.num_rows),
        "size": f"{megabytes:,.1f} MB",
        "missing": f"{stream.missing.total()} values, in {len(+stream.missing)} columns",
        "digest": manifest.digest,
        "time": f"{seconds:.1f} s, {megabytes / seconds:,.0f} MB/s",
    }
    for label, value in facts.items():
        click.echo(f"{label:<9} {value}")


@data.command("numerai")
@click.argument("folder")
@click.option("--version", help="The version of the data, v5.0 say.  [default: the newest]")
@click.option("--all", "everything", is_flag=True, help="All files, not only features.json, train, validation, live.")
def data_numerai(folder: str, version: str | None, everything: bool) -> None:
    """Download Numerai's data into FOLDER; what was cut short goes on where it stopped."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TaskID, TextColumn, TransferSpeedColumn

    from alignray.data.datasets import download_numerai

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, transient=True, disable=not sys.stdout.isatty()) as bars:
        tasks: dict[str, TaskID] = {}

        def show(name: str, done: int, total: int) -> None:
            tasks[name] = tasks[name] if name in tasks else bars.add_task(name, total=total)
            bars.update(tasks[name], completed=done)

        paths = download_numerai(folder, version=version, everything=everything, on_bytes=show)
    for path in paths:
        click.echo(f"{path}  {path.stat().st_size} bytes")


@data.command("synthetic")
@click.argument("folder")
@click.option("--eras", default=120, show_default=True, help="Eras; the last third is for validation.")
@click.option("--rows", default=500, show_default=True, help="Rows of an era, at most.")
@click.option("--features", default=50, show_default=True, help="Features.")
@click.option("--seed", default=0, show_default=True, help="Decides everything.")
def data_synthetic(folder: str, eras: int, rows: int, features: int, seed: int) -> None:
    """Write files that look like Numerai's into FOLDER, with a signal that is known."""
    from alignray.data.datasets import write_numerai_layout

    written = write_numerai_layout(folder, num_eras=eras, rows=rows, num_features=features, seed=seed)
    for path in sorted(written.iterdir()):
        click.echo(f"{path}  {path.stat().st_size} bytes")
