"""Predictions from finished sweeps."""

from alignray.serving.log import log_models
from alignray.serving.model import TrainedModel

__all__ = ["TrainedModel", "log_models"]
