"""Running sweeps and looking at them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from alignray.sweep import SweepConfig

_STORAGE = click.option("--storage", default="runs", show_default=True, help="The folder of the sweeps.")
_TRACKING = click.option(
    "--tracking-uri", help="The MLflow store.  [default: MLFLOW_TRACKING_URI, or sqlite:///mlflow.db]"
)
_ADDRESS = click.option(
    "--address", help="A Ray cluster that this machine belongs to: auto, HOST:PORT.  [default: this machine]"
)

_QUIET = click.option("--quiet", is_flag=True, help="Show the result alone, no progress and no warnings.")

_REGISTER = click.option(
    "--register", metavar="NAME", help="Register the final models in MLflow as versions of NAME, each arm its alias."
)

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


class Duration(click.ParamType[float]):
    """``90s``, ``30m``, ``2h``, ``1.5d`` → seconds."""

    name = "duration"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """See `click.ParamType.convert`."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", str(value))
        if match is None or float(match[1]) == 0:
            self.fail(f"expected a time such as 90s, 30m, 2h or 1d, got {value!r}", param, ctx)
        return float(match[1]) * _UNITS[match[2]]


@click.command()
@click.argument("sweep")
@click.option("--name", help="The sweep's name.  [default: the template's, and the time]")
@click.option("--trials", type=click.IntRange(min=1), help="Trials of each arm.")
@click.option("--time-budget", type=Duration(), help="Stop the search after 90s, 30m, 2h, ….")
@click.option(
    "--gpu-hours", type=click.FloatRange(min=0, min_open=True), help="Stop the search after so many GPU-hours."
)
@_ADDRESS
@click.option(
    "--set", "settings", multiple=True, metavar="KEY=VALUE", help="Any field of the sweep, by its dotted path."
)
@click.option("--smoke", is_flag=True, help="Two short trials of each arm: does it run? Its numbers mean nothing.")
@click.option("--warm-start", metavar="NAME", help="Show the samplers what the earlier sweep NAME found.")
@click.option("--dry-run", is_flag=True, help="Say what would run and what it would take; run a few steps.")
@click.option("--resume", "go_on", is_flag=True, help="Go on with the sweep --name if it was begun before.")
@_REGISTER
@_QUIET
@_STORAGE
@_TRACKING
def run(
    sweep: str,
    name: str | None,
    trials: int | None,
    time_budget: float | None,
    gpu_hours: float | None,
    address: str | None,
    settings: tuple[str, ...],
    warm_start: str | None,
    smoke: bool,
    dry_run: bool,
    go_on: bool,
    register: str | None,
    quiet: bool,
    storage: str,
    tracking_uri: str | None,
) -> None:
    """Run SWEEP: a template's name (quickstart), a module (my_pkg.my_sweep) or a file (my_sweep.py)."""
    from alignray.cli.progress import watch
    from alignray.cli.show import print_result
    from alignray.configuration import set_from_texts
    from alignray.launch import find_sweep, run_sweep

    if go_on and name is None:
        raise click.UsageError("--resume: expected the --name of the sweep to go on with, got none")
    if go_on and (Path(storage) / str(name)).exists():  # what it began with is in its manifest
        click.get_current_context().invoke(
            resume,
            name=name,
            address=address,
            register=register,
            quiet=quiet,
            storage=storage,
            tracking_uri=tracking_uri,
        )
        return
    flags = {
        "search.trials": trials,
        "resources.time_budget_s": time_budget,
        "resources.gpu_hours": gpu_hours,
    }
    asked = _asked(settings) | {path: str(value) for path, value in flags.items() if value is not None}
    config = set_from_texts(find_sweep(sweep), asked)
    if smoke:
        config = set_from_texts(config.smoke(), asked)  # what was asked for by name holds against it
    if dry_run:
        _plan(config, elsewhere=address is not None)
        return
    with watch(quiet=quiet) as progress:
        result = run_sweep(
            config,
            name=name,
            storage=storage,
            address=address,
            tracking_uri=tracking_uri,
            register=register,
            warm_start=warm_start,
            progress=progress,
        )
    print_result(result)


def _plan(config: SweepConfig, *, elsewhere: bool) -> None:
    """Say what would run, and measure it where this machine can; it must, unless the sweep is to run elsewhere."""
    from alignray.cli.show import print_estimate, print_plan
    from alignray.errors import SweepError
    from alignray.sweep import estimate

    panel = config.data.load()
    print_plan(config, panel)
    try:
        print_estimate(config, estimate(config, panel))
    except SweepError as error:
        if not elsewhere:
            raise
        click.echo(f"measured  not, on this machine: {error}")


def _asked(settings: Sequence[str]) -> dict[str, str]:
    """What ``--set`` asks for, by dotted path."""
    asked = {}
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals:
            raise click.UsageError(f"--set: expected KEY=VALUE, got {setting!r}")
        asked[path] = text
    return asked


@click.command()
@click.argument("name")
@click.option("--trials", type=click.IntRange(min=1), help="Trials of each arm, at least as many as it has.")
@click.option("--time-budget", type=Duration(), help="Stop the search after 90s, 30m, 2h, … of this time.")
@_ADDRESS
@_REGISTER
@_QUIET
@_STORAGE
@_TRACKING
def resume(
    name: str,
    trials: int | None,
    time_budget: float | None,
    address: str | None,
    register: str | None,
    quiet: bool,
    storage: str,
    tracking_uri: str | None,
) -> None:
    """Go on with the sweep NAME where it was interrupted, or with more trials."""
    from alignray.cli.progress import watch
    from alignray.cli.show import print_result
    from alignray.launch import resume_sweep

    with watch(quiet=quiet) as progress:
        result = resume_sweep(
            name,
            trials=trials,
            time_budget_s=time_budget,
            storage=storage,
            address=address,
            tracking_uri=tracking_uri,
            register=register,
            progress=progress,
        )
    print_result(result)


@click.command()
@click.argument("name")
@click.argument("other", required=False)
@click.option(
    "--html", "page", type=click.Path(dir_okay=False, path_type=Path), help="Write the page to this file too."
)
@_STORAGE
@_TRACKING
def compare(name: str, other: str | None, page: Path | None, storage: str, tracking_uri: str | None) -> None:  # noqa: ARG001
    """Show the arms of the sweep NAME side by side; or, arm by arm, what the sweep OTHER has over it."""
    from alignray.cli.show import print_across, print_result
    from alignray.errors import SweepError
    from alignray.launch import compare_sweeps, open_result, write_page

    if other is not None:
        if page is not None:
            raise click.UsageError("--html: expected one sweep, whose page is written; got two")
        print_across(name, other, compare_sweeps(name, other, storage=storage))
        return
    result = open_result(name, storage=storage)
    if result.comparison.empty:
        raise SweepError(f"sweep {name!r} has no comparison yet; finish it: alignray resume {name}")
    print_result(result)
    if page is not None:
        if not page.absolute().parent.is_dir():
            raise click.UsageError(f"--html: no folder {page.absolute().parent}")
        click.echo(f"page        {write_page(result, page)}")


@click.command()
@click.argument("name")
@click.argument("trial")
@_STORAGE
def logs(name: str, trial: str, storage: str) -> None:
    """Show what TRIAL (aligned-3, aligned-final) of the sweep NAME wrote about itself."""
    from alignray.sweep import Manifest, read_log, sweep_folder

    folder = sweep_folder(storage, name)
    Manifest.load(folder)
    click.echo(read_log(folder, trial), nl=False)


@click.command()
@click.argument("run_id")
@click.option("--data", required=True, help="The file: era, id, features; for decisions the factors too.")
@click.option("--out", required=True, help="The CSV file to write.")
@click.option("--decision", is_flag=True, help="Write the solver's decisions instead of ranked predictions.")
@_TRACKING
def predict(run_id: str, data: str, out: str, decision: bool, tracking_uri: str | None) -> None:
    """Write what the final model of the MLflow run RUN_ID predicts of the rows of a file, as Numerai takes it."""
    from alignray.serving import predict_file

    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # of a file that takes no time
    table = predict_file(run_id, data, out, decision=decision, tracking_uri=tracking_uri)
    click.echo(f"{out}: {len(table)} rows of {', '.join(table.columns)}")


@click.command()
@click.argument("name", required=False)
@click.option("--port", type=click.IntRange(1, 65535), help="The port.  [default: 5000, or the next that is free]")
@click.option("--open/--no-open", "open_browser", default=None, help="Open a browser.  [default: at a terminal]")
@_STORAGE
@_TRACKING
def ui(name: str | None, port: int | None, open_browser: bool | None, storage: str, tracking_uri: str | None) -> None:
    """Start the MLflow UI on this machine's loopback, at the sweep NAME or at all of them."""
    from alignray.cli.mlflow_ui import serve
    from alignray.sweep import Manifest, sweep_folder
    from alignray.tracking import resolve_tracking_uri, with_password

    uri = resolve_tracking_uri(tracking_uri)
    if name is not None:
        manifest = Manifest.load(sweep_folder(storage, name))
        uri = with_password(manifest.tracking_uri) if tracking_uri is None else uri
    serve(uri, name, port=port, open_browser=open_browser)
