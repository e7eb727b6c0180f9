"""The MLflow model of a final model, logged as this code and the weights' file: nothing is pickled.

MLflow runs this file when the model is loaded.
"""

from typing import Any

import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from alignray.serving.model import TrainedModel


class AlignrayModel(PythonModel):
    """Features in, the mean prediction of the members out."""

    def load_context(self, context: PythonModelContext) -> None:
        """Read the weights."""
        self._model = TrainedModel.load(context.artifacts["model"])

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """A frame with the column ``prediction``, its rows in the order of the input's."""
        return pd.DataFrame({"prediction": self._model.predict(model_input)}, index=model_input.index)


set_model(AlignrayModel())
