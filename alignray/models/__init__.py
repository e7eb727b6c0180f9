"""Networks from the features of a row to its prediction."""

from alignray.models.networks import MODELS, ModelConfig, build_model

__all__ = ["MODELS", "ModelConfig", "build_model"]
