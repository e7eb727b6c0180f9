"""x"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from alignray.sweep import FinalResult, Manifest


def log_models(manifest: Manifest, finals: Sequence[FinalResult], runs: Mapping[str, str]) -> None:
    """x"""
