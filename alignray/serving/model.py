"""A trained model, read back from its file."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.checkpoint import Checkpoint
from alignray.configuration import from_plain
from alignray.data import Batch, Panel, Schema, code_moments
from alignray.errors import DataError, UnconvergedError
from alignray.training import Members
from alignray.trial import Scores, TrialConfig, build_layer, score
from alignray.trial.scoring import eras_at_once

if TYPE_CHECKING:
    import pandas as pd


class TrainedModel:
    """The members of a final model, with the solver they were trained for.

    Args:
        config: The configuration it was trained with.
        schema: The columns it reads.
        members: The trained members.

    Attributes:
        config: The configuration.
        schema: The columns.
        members: The members.
    """

    def __init__(self, config: TrialConfig, schema: Schema, members: Members) -> None:
        self.config, self.schema, self.members = config, schema, members

    @classmethod
    def load(cls, path: Path | str) -> TrainedModel:
        """Read a model's file; nothing in it is unpickled.

        Raises:
            DataError: The file is missing, damaged, or not a model.
        """
        stored = Checkpoint.load(Path(path))
        if not {"config", "schema"} <= set(stored.record):
            raise DataError(f"{path}: expected a final model, got another checkpoint")
        config = from_plain(TrialConfig, stored.record["config"])
        schema = from_plain(Schema, stored.record["schema"])
        members = Members(config.model, len(schema.features), config.member_seeds, torch.device("cpu"))
        members.load(stored.tensors)
        return cls(config, schema, members)

    def predict(self, frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        """Predictions ``[rows]``, the mean over the members, of the rows of a frame with the model's features.

        A network whose rows see one another (``cross``) needs the era column as well, and whole eras: the rows that
        have the same value there are predicted together, wherever they stand.

        Raises:
            DataError: A feature or the era column is missing, or a feature is not a number, or no code where the model
                was trained on codes.
        """
        missing = [name for name in self.schema.features if name not in frame.columns]
        if missing:
            raise DataError(
                f"features: expected all {len(self.schema.features)} that the model was trained on, "
                f"{len(missing)} are missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
            )
        values = frame[list(self.schema.features)].to_numpy(dtype=np.float32)
        if not np.isfinite(values).all():
            raise DataError("features: expected finite numbers, got NaN or infinite ones")
        if self.schema.bins is not None:
            if not np.isin(values, np.arange(self.schema.bins)).all():
                raise DataError(
                    f"features: expected codes 0 to {self.schema.bins - 1}, as the model was trained on, got other "
                    "numbers; bin them within each era first, or predict with alignray predict, which does"
                )
            mean, std = code_moments(self.schema.bins)
            values = (values - mean) / std
        features = torch.from_numpy(values)
        predictions = np.empty(len(frame))
        with torch.no_grad():
            for rows in self._together(frame):
                predictions[rows] = self.members(features[rows]).double().mean(0).numpy()
        return predictions

    def predict_panel(self, panel: Panel) -> npt.NDArray[np.float64]:
        """Predictions ``[rows]``, the mean over the members, of all rows of a panel with the model's features."""
        return np.concatenate([p[present].numpy() for p, present, _ in self._eras_of(panel)])

    def decide_panel(self, panel: Panel) -> npt.NDArray[np.float64]:
        """Decisions ``[rows]`` of the model's own solver for the mean prediction, of all rows of a panel.

        The metrics of a sweep are means over the members, each with a decision of its own: only a model of one member
        has those of its decisions here.

        Raises:
            UnconvergedError: A solve did not converge.
        """
        layer, decisions = build_layer(self.config), []
        for p, present, batch in self._eras_of(panel):
            solution = layer(p, batch.factors.double(), present)
            if not bool(solution.converged.all()):
                era = panel.eras[int(batch.eras[~solution.converged][0])]
                raise UnconvergedError(f"era {era!r}: the decision's solve did not converge; check the era's factors")
            decisions.append(solution.q[present].numpy())
        return np.concatenate(decisions)

    def _eras_of(self, panel: Panel) -> Iterator[tuple[Tensor, Tensor, Batch]]:
        """Predictions ``[B, n]`` of a few eras after the other, the rows that exist ``[B, n]``, and the batch."""
        at_once = eras_at_once(panel)
        with torch.no_grad():
            for start in range(0, panel.num_eras, at_once):
                batch = panel.batch(range(start, min(start + at_once, panel.num_eras)))
                yield self.members(batch.features, batch.present).double().mean(0), batch.present, batch

    def score(self, panel: Panel, eras: range) -> Scores:
        """The metrics of some eras of a panel, as the sweep computes them."""
        return score(self.members, build_layer(self.config), self.config.scoring, panel, eras)

    def _together(self, frame: pd.DataFrame) -> list[npt.NDArray[np.int64]]:
        """The rows that are predicted at once."""
        if not self.members.sees_era:
            return [np.arange(len(frame))]
        era = self.schema.era
        if era not in frame.columns:
            raise DataError(
                f"{era}: expected the era column, for {self.config.model.family!r} predicts a row from its whole era; "
                f"got the columns {', '.join(map(str, frame.columns[:5]))}{' …' if len(frame.columns) > 5 else ''}"
            )
        if frame[era].isna().any():
            raise DataError(f"{era}: expected an era for each row, got {int(frame[era].isna().sum())} rows without")
        return [np.asarray(rows) for rows in frame.groupby(era, sort=False).indices.values()]
