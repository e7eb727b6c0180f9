"""Files that come with alignray and are no modules of it: the templates, and the folders of clusters."""

from __future__ import annotations

from pathlib import Path


def shipped(inside: str, beside: str) -> Path:
    """A folder of such files.

    Args:
        inside: Its name within the package, as a wheel carries it.
        beside: Its name beside the package, in a checkout.
    """
    package = Path(__file__).parents[1]
    carried = package / inside
    return carried if carried.exists() else package.parent / beside
