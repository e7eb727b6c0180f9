"""Logging the final models to MLflow."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from alignray import __version__
from alignray.serving.model import TrainedModel
from alignray.sweep import FinalResult

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.models import ModelSignature

MODEL_TAG = "alignray.model"
"""The tag of a final run that names its model."""

_TAGS_OF_VERSIONS = ("alignray.objective", "alignray.sweep")
_NEEDED = ("torch", "mlflow", "numpy", "pandas", "safetensors")


def log_models(
    tracking_uri: str, finals: Sequence[FinalResult], runs: Mapping[str, str], register: str | None = None
) -> None:
    """Log every final model to its run, as a model that ``mlflow.pyfunc.load_model`` loads; those there are left.

    Args:
        tracking_uri: The MLflow store.
        finals: The final results.
        runs: MLflow's run of each final model, by key.
        register: The registered model that they become versions of, if any: one version an arm, which the arm's name
            is the alias of, ``models:/NAME@aligned``.
    """
    import mlflow

    client = mlflow.MlflowClient(tracking_uri)
    mlflow.set_tracking_uri(tracking_uri)
    for final in finals:
        run_id = runs[final.key]
        tags = client.get_run(run_id).data.tags
        uri = tags.get(MODEL_TAG) or _log_model(final, run_id)
        client.set_tag(run_id, MODEL_TAG, uri)
        if register is not None:
            _register(client, register, uri, run_id, {name: tags[name] for name in _TAGS_OF_VERSIONS})


def _log_model(final: FinalResult, run_id: str) -> str:
    import mlflow

    model = TrainedModel.load(final.model)
    with mlflow.start_run(run_id=run_id), _without_advice():
        logged = mlflow.pyfunc.log_model(
            name="model",
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={"model": str(final.model)},
            signature=_signature(model),
            input_example=_example(model),
            pip_requirements=[f"alignray=={__version__}", *(f"{name}=={version(name)}" for name in _NEEDED)],
        )
    return str(logged.model_uri)


@contextmanager
def _without_advice() -> Iterator[None]:
    """MLflow advises type hints, which would say what the signature does, and tells that it tries the example."""
    told = logging.getLogger("mlflow.pyfunc")
    level = told.level
    told.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            warnings.filterwarnings("ignore", "Operation with range is deprecated")  # MLflow 3.17 with pandas 3.1
            yield
    finally:
        told.setLevel(level)


def _register(client: MlflowClient, name: str, uri: str, run_id: str, tags: dict[str, str]) -> None:
    """Make a model a version of a registered one, unless it is one already; the alias of its arm moves to it."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    known = client.search_model_versions(f"name = '{name}' and run_id = '{run_id}'")
    found = known[0] if known else client.create_model_version(name, uri, run_id, tags=tags)
    client.set_registered_model_alias(name, tags["alignray.objective"], found.version)


def _example(model: TrainedModel) -> pd.DataFrame:
    """Two rows of one era, as the model's signature wants them."""
    schema = model.schema
    codes = np.zeros((2, len(schema.features)), np.float32 if schema.bins is None else np.int32)
    frame = pd.DataFrame(codes, columns=list(schema.features))
    return frame.assign(**{schema.era: "0001"}) if model.members.sees_era else frame


def _signature(model: TrainedModel) -> ModelSignature:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec
    from mlflow.types import Schema as MlflowSchema

    schema = model.schema
    kind = "float" if schema.bins is None else "integer"
    era = [ColSpec("string", schema.era)] if model.members.sees_era else []
    inputs = MlflowSchema([*(ColSpec(kind, name) for name in schema.features), *era])
    return ModelSignature(inputs=inputs, outputs=MlflowSchema([ColSpec("double", "prediction")]))
