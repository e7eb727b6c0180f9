"""Predictions from finished sweeps."""

from alignray.serving.log import log_models
from alignray.serving.model import TrainedModel
from alignray.serving.prediction import load_model, predict_file, ranked

__all__ = ["TrainedModel", "load_model", "log_models", "predict_file", "ranked"]
