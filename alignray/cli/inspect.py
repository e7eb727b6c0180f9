"""Looking at templates and data."""

from __future__ import annotations

import json
import sys

import click


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


@click.group()
def data() -> None:
    """Data sets."""


@data.command("check")
@click.argument("file")
@click.option("--era", default="era", show_default=True, help="The era column.")
@click.option("--target", default="target", show_default=True, help="The target column.")
@click.option("--features", default="feature_*", show_default=True, help="The features, a pattern.")
def data_check(file: str, era: str, target: str, features: str) -> None:
    """Read FILE (parquet) as a panel and say what is in it."""
    import numpy as np

    from alignray.data import Panel

    panel = Panel.from_parquet(file, era=era, target=target, features=features)
    rows = np.concatenate([np.diff(shard.offsets) for shard in panel.shards])
    targets = np.concatenate([shard.target for shard in panel.shards])
    bins = panel.schema.bins
    facts = {
        "eras": f"{panel.num_eras}, from {panel.eras[0]} to {panel.eras[-1]}",
        "rows": f"{panel.num_rows}, {rows.min()} to {rows.max()} an era",
        "features": f"{panel.num_features}, " + ("float32" if bins is None else f"int8 in {bins} bins"),
        "factors": str(panel.num_factors),
        "target": f"{int(np.isnan(targets).sum())} unknown of {len(targets)}",
        "digest": panel.digest,
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
