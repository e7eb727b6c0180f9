"""A stored model predicts what its members did, row by row or era by era."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from registry import ACROSS_ROWS, MODEL_CASES

from alignray.checkpoint import Checkpoint
from alignray.configuration import to_plain
from alignray.costs import Quadratic
from alignray.data import Panel
from alignray.errors import DataError
from alignray.serving import TrainedModel
from alignray.training import Members
from alignray.trial import ScoringConfig, TrialConfig

COST = Quadratic(1.0)
cases = pytest.mark.parametrize("case", MODEL_CASES)


def stored(case: str, panel: Panel, path: Path) -> Members:
    """Members with weights that no seed gives, and their file."""
    config = TrialConfig(cost=COST, scoring=ScoringConfig(cost=COST), model=MODEL_CASES[case], members=2)
    members = Members(config.model, panel.num_features, config.member_seeds, torch.device("cpu"))
    with torch.no_grad():
        for value in members.parameters.values():
            value.mul_(1.25)
    record = {"config": to_plain(config), "schema": to_plain(panel.schema), "best_epoch": 1}
    Checkpoint(members.state(), record).save(path)
    return members


def frame_of(panel: Panel, eras: range) -> pd.DataFrame:
    (shard,) = panel.shards
    rows = np.repeat(np.arange(panel.num_eras), np.diff(shard.offsets))
    chosen = np.isin(rows, eras)
    frame = pd.DataFrame(np.asarray(shard.features)[chosen], columns=list(panel.schema.features))
    return frame.assign(**{panel.schema.era: [panel.eras[row] for row in rows[chosen]]})


@cases
def test_a_stored_model_predicts_the_mean_of_its_members_whatever_the_order_of_the_rows(case, panel, tmp_path):
    members, eras = stored(case, panel, tmp_path / "model.safetensors"), range(3, 7)
    batch = panel.batch(eras)
    with torch.no_grad():
        expected = members(batch.features, batch.present).mean(0)[batch.present].numpy()
    model, frame = TrainedModel.load(tmp_path / "model.safetensors"), frame_of(panel, eras)
    np.testing.assert_allclose(model.predict(frame), expected, rtol=1e-5, atol=1e-6)
    order = np.random.default_rng(0).permutation(len(frame))
    np.testing.assert_allclose(model.predict(frame.iloc[order]), expected[order], rtol=1e-5, atol=1e-6)


@cases
def test_the_era_is_asked_for_where_the_network_sees_it(case, panel, tmp_path):
    stored(case, panel, tmp_path / "model.safetensors")
    model = TrainedModel.load(tmp_path / "model.safetensors")
    frame = frame_of(panel, range(2))
    features = frame[list(panel.schema.features)]
    if case not in ACROSS_ROWS:
        np.testing.assert_array_equal(model.predict(features), model.predict(frame))
        return
    with pytest.raises(DataError, match=f"era: expected the era column, for '{model.config.model.family}' predicts"):
        model.predict(features)
    frame.loc[1, "era"] = None
    with pytest.raises(DataError, match="era: expected an era for each row, got 1 rows without"):
        model.predict(frame)


@cases
def test_mlflow_is_told_of_the_columns_that_a_model_reads(case, panel, tmp_path):
    from alignray.serving.log import _signature

    stored(case, panel, tmp_path / "model.safetensors")
    names = _signature(TrainedModel.load(tmp_path / "model.safetensors")).inputs.input_names()
    assert names == [*panel.schema.features, *(["era"] if case in ACROSS_ROWS else [])]
