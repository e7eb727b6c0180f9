"""Networks from the features of a row, or of an era, to predictions."""

from alignray.models.networks import MODELS, CrossConfig, ModelConfig, TabmConfig, build_model, sees_era

__all__ = ["MODELS", "CrossConfig", "ModelConfig", "TabmConfig", "build_model", "sees_era"]
