"""From a final run and a file of features to a file of predictions."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from alignray.data import Panel, Schema
from alignray.data.columns import Request
from alignray.data.loading import load
from alignray.data.sources import Source
from alignray.data.stream import open_file
from alignray.errors import DataError, SweepError
from alignray.serving.log import MODEL_TAG
from alignray.serving.model import TrainedModel
from alignray.tracking import resolve_tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run


def predict_file(
    run_id: str,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    decision: bool = False,
    tracking_uri: str | None = None,
) -> pd.DataFrame:
    """Write what a final run's model predicts of the rows of a file, as Numerai takes it.

    Args:
        run_id: The MLflow run of a final model.
        data: A parquet, Arrow or CSV file with the era, the id and the features that the model was trained on, in any
            order; a target is not read. The columns of the factors too, for decisions.
        out: The CSV file to write, whole or not at all.
        decision: Whether to write the decision q of the model's own solver, of the mean prediction, instead.
        tracking_uri: The MLflow store; None for ``MLFLOW_TRACKING_URI``, or ``sqlite:///mlflow.db``.

    Returns:
        What was written: the ids, as they are in the file, and ``prediction``, ranked into (0, 1) within each era, or
        ``decision``; era by era in time order, and before the ids the eras where an id is in several.

    Raises:
        SweepError: There is no such run, or it is not that of a final model.
        DataError: The file lacks a column, or holds what cannot be used.
        UnconvergedError: A decision's solve did not converge.
    """
    out = Path(out)
    if not out.absolute().parent.is_dir():
        raise DataError(f"{out}: no folder {out.absolute().parent}; make it, or choose another file")
    model = load_model(run_id, tracking_uri)
    panel = read_features(data, model.schema, factors=decision)
    eras = np.repeat(panel.eras, [stop - start for _, start, stop in panel.spans])
    ids = np.concatenate([shard.ids for shard in panel.shards if shard.ids is not None])
    table = pd.DataFrame({panel.schema.era: eras, str(panel.schema.id): ids})
    if decision:
        table["decision"] = model.decide_panel(panel)
    else:
        table["prediction"] = ranked(pd.Series(model.predict_panel(panel)), table[panel.schema.era])
    if table[str(panel.schema.id)].is_unique:
        table = table.drop(columns=panel.schema.era)
    partial = out.with_name(f"{out.name}.partial")
    table.to_csv(partial, index=False)
    partial.replace(out)
    return table


def ranked(values: pd.Series[float], eras: pd.Series[str]) -> pd.Series[float]:
    """Ranks within each era as numbers in (0, 1): (rank − ½) / rows, the mean rank for equal values."""
    groups = values.groupby(eras)
    return (groups.rank() - 0.5) / groups.transform("size")


def load_model(run_id: str, tracking_uri: str | None = None) -> TrainedModel:
    """The model of a final run.

    Raises:
        SweepError: There is no such run, it is not that of a final model, or its model was not logged.
    """
    import mlflow

    from alignray.tracking.reading import open_store, read_run

    uri = resolve_tracking_uri(tracking_uri)
    run = read_run(open_store(uri), run_id)
    if MODEL_TAG not in run.data.tags:
        raise SweepError(_no_model(run))
    mlflow.set_tracking_uri(uri)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(mlflow.artifacts.download_artifacts(artifact_uri=run.data.tags[MODEL_TAG], dst_path=folder))
        return TrainedModel.load(home / "artifacts" / "model.safetensors")


def read_features(path: str | os.PathLike[str], schema: Schema, *, factors: bool) -> Panel:
    """The rows of a file as a panel without targets, its features in the order of a model's.

    Args:
        path: The file.
        schema: The model's columns.
        factors: Whether the factors are wanted too; else the features stand for them.

    Raises:
        DataError: A column is missing, or holds what cannot be used.
    """
    request = Request(
        era=schema.era,
        target=None,
        features=schema.features,
        factors=schema.factors if factors else None,
        id=schema.id or "id",
        bins=schema.bins,
    )
    source = open_file(path, request)
    if source.schema.id is None:
        raise DataError(f"{source.name}: no column {request.id!r}; predictions are written beside the rows' ids")
    if schema.bins is not None:
        _require_no_float_codes(source, schema.bins)
    loaded, shards = load(source, request.bins)
    if loaded.bins != schema.bins:
        raise DataError(
            f"{source.name}: the features are integers, and the model was trained on floats; cast them to floats"
        )
    return Panel(loaded, shards)


def _require_no_float_codes(source: Source, bins: int) -> None:
    """Floats are binned, as they were for training; codes that are only written as floats must not be binned again."""
    import pyarrow as pa
    import pyarrow.compute as pc

    floats = [name for name in source.schema.features if pa.types.is_floating(source.types[name])]
    if not floats:
        return
    values = pc.drop_null(source.column(floats[0])).to_numpy()
    values = values[~np.isnan(values)]
    if len(values) and np.isin(values, np.arange(bins)).all():
        raise DataError(
            f"{source.name}: column {floats[0]!r} holds the codes 0 to {bins - 1} as floats; cast the features to "
            "integers (missing ones to null)"
        )


def _no_model(run: Run) -> str:
    tags = run.data.tags
    kind, sweep = tags.get("alignray.kind"), tags.get("alignray.sweep")
    if kind == "final":
        return f"run {run.info.run_id} has no model yet; finish its sweep: alignray resume {sweep}"
    known = (
        "" if sweep is None else f"; the final runs of sweep {sweep!r} are called ARM-final: see alignray ui {sweep}"
    )
    return f"run {run.info.run_id} is a {kind or 'run of something else'}, expected a final model's{known}"
