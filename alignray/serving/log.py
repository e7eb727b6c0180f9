"""Logging the final models to MLflow."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from alignray import __version__
from alignray.serving.model import TrainedModel
from alignray.sweep import FinalResult

if TYPE_CHECKING:
    from mlflow.models import ModelSignature

_MODEL_TAG = "alignray.model"
_NEEDED = ("torch", "mlflow", "numpy", "pandas", "safetensors")


def log_models(tracking_uri: str, finals: Sequence[FinalResult], runs: Mapping[str, str]) -> None:
    """Log every final model to its run, as a model that ``mlflow.pyfunc.load_model`` loads; those there are left.

    Args:
        tracking_uri: The MLflow store.
        finals: The final results.
        runs: MLflow's run of each final model, by key.
    """
    import mlflow

    client = mlflow.MlflowClient(tracking_uri)
    mlflow.set_tracking_uri(tracking_uri)
    for final in finals:
        run_id = runs[final.key]
        if _MODEL_TAG in client.get_run(run_id).data.tags:
            continue
        with mlflow.start_run(run_id=run_id), warnings.catch_warnings():
            # MLflow advises an input example and type hints; the signature below says what they would.
            warnings.simplefilter("ignore", UserWarning)
            logged = mlflow.pyfunc.log_model(
                name="model",
                python_model=str(Path(__file__).with_name("pyfunc.py")),
                artifacts={"model": str(final.model)},
                signature=_signature(TrainedModel.load(final.model)),
                pip_requirements=[f"alignray=={__version__}", *(f"{name}=={version(name)}" for name in _NEEDED)],
            )
        client.set_tag(run_id, _MODEL_TAG, logged.model_uri)


def _signature(model: TrainedModel) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec
    from mlflow.types import Schema as MlflowSchema

    schema = model.schema
    kind = "float" if schema.bins is None else "integer"
    era = [ColSpec("string", schema.era)] if model.members.sees_era else []
    inputs = MlflowSchema([*(ColSpec(kind, name) for name in schema.features), *era])
    return ModelSignature(inputs=inputs, outputs=MlflowSchema([ColSpec("double", "prediction")]))
