"""Looking at templates and data."""

from __future__ import annotations

import json

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
