"""``alignray``: arguments, errors, exit status.

Exit status: 0 done, 1 the work failed, 2 wrong usage. An error is one line that says what to do; ``--debug`` shows its
traceback.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence

import click

from alignray import __version__
from alignray.cli.cluster import cluster
from alignray.cli.commands import compare, logs, predict, resume, run, ui
from alignray.cli.doctor import doctor
from alignray.cli.inspect import data, template
from alignray.errors import AlignrayError
from alignray.tracking import without_secrets

_DONE, _FAILED, _USAGE = 0, 1, 2


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="alignray")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def cli(debug: bool) -> None:
    """Train networks through a convex solver, and sweep them over a Ray cluster."""


for command in (run, resume, compare, logs, predict, ui, template, data, doctor, cluster):
    cli.add_command(command)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(status(sys.argv[1:] if arguments is None else arguments))


def status(arguments: Sequence[str]) -> int:
    """Run the command line.

    Returns:
        The exit status.
    """
    debug = "--debug" in arguments
    try:
        cli.main([argument for argument in arguments if argument != "--debug"], "alignray", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return _USAGE
    except click.ClickException as error:
        return _complain(error.format_message(), _USAGE)
    except (click.Abort, KeyboardInterrupt):
        return _complain("interrupted", _FAILED)
    except AlignrayError as error:
        if debug:
            _print_traceback()
        return _complain(str(error), _USAGE if isinstance(error, ValueError) else _FAILED)
    except Exception as error:  # the last resort: whatever it is, one line, and the traceback on request
        if debug:
            _print_traceback()
        first = str(error).splitlines()[0] if str(error) else ""
        return _complain(f"{type(error).__name__}: {first} (--debug shows where)", _FAILED)
    return _DONE


def _complain(message: str, code: int) -> int:
    click.echo(f"alignray: {without_secrets(' '.join(message.split()))}", err=True)
    return code


def _print_traceback() -> None:
    click.echo(without_secrets(traceback.format_exc()), err=True, nl=False)
