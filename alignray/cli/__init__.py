"""The command line."""

from alignray.cli.main import main

__all__ = ["main"]
