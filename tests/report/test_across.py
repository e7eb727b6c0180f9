"""Two sweeps compared."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import made_up_final, made_up_scores

from alignray.configuration import replace_at
from alignray.errors import SweepError
from alignray.report import compare_across
from alignray.statistics import signed_rank


@pytest.fixture
def other(manifest):
    return replace(manifest, name="other")


def test_arms_are_paired_by_the_eras_that_both_holdouts_have(manifest, other, tmp_path):
    longer = made_up_scores(9, seed=1)
    later = replace(longer, eras=tuple(f"{era:04d}" for era in range(2, 11)))
    first = made_up_final(tmp_path, "mse", made_up_scores(6))
    table = compare_across(
        (manifest, [made_up_final(tmp_path, "aligned", made_up_scores(6)), first]),
        (other, [made_up_final(tmp_path, "mse", later)]),
    )
    assert set(table["arm"]) == {"mse"}
    row = table.set_index("metric").loc["regret"]
    differences = later.series["regret"].mean(0)[:4] - first.by_era("regret")[2:]
    assert row["eras"] == 4
    assert row["difference"] == pytest.approx(differences.mean())
    assert row["difference"] == pytest.approx(row["second"] - row["first"])
    assert row["p"] == row["p_holm"] == signed_rank(differences)
    assert (row["wins"], row["losses"]) == ((differences < 0).sum(), (differences > 0).sum())


def test_a_sweep_has_nothing_over_itself(manifest, tmp_path):
    finals = [made_up_final(tmp_path, "mse", made_up_scores(6))]
    table = compare_across((manifest, finals), (manifest, finals))
    assert (table["difference"] == 0).all()
    assert (table["difference_low"].dropna() == 0).all()
    assert np.isin(table["p"].dropna(), 1.0).all()


def test_what_cannot_be_compared_is_refused_in_words(manifest, other, tmp_path):
    finals = [made_up_final(tmp_path, "mse", made_up_scores(6))]
    elsewhere = replace(other, data={**other.data, "digest": "f" * 64})
    with pytest.raises(SweepError, match="sweeps 'demo' and 'other': their data differ"):
        compare_across((manifest, finals), (elsewhere, finals))
    config = replace_at(other.config, {"trial.scoring.top_bottom": 5})
    with pytest.raises(SweepError, match=r"trial\.scoring\.top_bottom differs, None and 5"):
        compare_across((manifest, finals), (replace(other, config=config), finals))
    with pytest.raises(SweepError, match="no arm has a final model in both"):
        compare_across((manifest, finals), (other, []))
    apart = replace(made_up_scores(6), eras=tuple("abcdef"))
    with pytest.raises(SweepError, match="no era in common"):
        compare_across((manifest, finals), (other, [made_up_final(tmp_path, "mse", apart)]))
