"""Predictions from finished sweeps."""

from alignray.serving.log import log_models

__all__ = ["log_models"]
