"""Predicted against realised, in bins of each era's predictions."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from alignray.data import Panel
from alignray.models import ModelConfig
from alignray.training import Members
from alignray.trial import calibrate


@pytest.fixture
def members(panel, device) -> Members:
    return Members(ModelConfig(family="linear"), panel.num_features, (0, 1), device)


def test_bins_are_those_of_sorting_each_era_by_hand(panel, members):
    found = calibrate(members, panel, range(3, 9), bins=4)
    rows = []
    for era in range(3, 9):
        batch = panel.batch([era])
        with torch.no_grad():
            p = members(batch.features.to(members.device)).double().cpu()[:, 0]
        known = batch.mask[0]
        for member in p:
            frame = pd.DataFrame({"p": member[known].numpy(), "y": batch.target[0][known].double().numpy()})
            rows.append(frame.assign(bin=frame["p"].rank(method="first").sub(1).mul(4).floordiv(len(frame))))
    by_bin = pd.concat(rows).groupby("bin")
    np.testing.assert_array_equal(found.rows, by_bin.size())
    np.testing.assert_allclose(found.predicted, by_bin["p"].mean(), rtol=1e-6)
    np.testing.assert_allclose(found.realised, by_bin["y"].mean(), rtol=1e-6, atol=1e-9)
    assert (np.diff(found.predicted) > 0).all()


def test_rows_without_a_target_count_in_no_bin(panel, members):
    (shard,) = panel.shards
    target = shard.target.copy()
    target[shard.offsets[5] : shard.offsets[6]] = np.nan
    hidden = Panel(panel.schema, (replace(shard, target=target),))
    without, expected = calibrate(members, hidden, range(4, 7)), calibrate(members, panel, [4, 6])
    np.testing.assert_array_equal(without.rows, expected.rows)
    np.testing.assert_allclose(without.realised, expected.realised)


def test_a_member_that_is_lost_says_nothing(panel, members):
    alone = calibrate(members.of({name: value[:1] for name, value in members.parameters.items()}), panel, range(5))
    members.lose([1])
    found = calibrate(members, panel, range(5))
    np.testing.assert_array_equal(found.rows, alone.rows)
    np.testing.assert_allclose(found.predicted, alone.predicted)
