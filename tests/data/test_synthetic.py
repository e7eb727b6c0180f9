import numpy as np
import pytest
import torch

from alignray.data.datasets import synthetic, synthetic_oracle
from alignray.data.datasets.synthetic import NOISE, STABLE, UNSTABLE
from alignray.errors import InvalidArgumentError


@pytest.fixture(scope="module")
def panel():
    return synthetic(num_eras=60, rows=1000, num_features=20, seed=3)


def eras_of(panel):
    """The features, as numbers, and the standardised target of each era."""
    for era in range(panel.num_eras):
        batch = panel.batch([era])
        yield batch.features[0].double().numpy(), batch.target[0].double().numpy()


def test_the_layout_is_numerais(panel):
    shard = panel.shards[0]
    assert panel.eras[0] == "0001"
    assert panel.eras[-1] == "0060"
    assert panel.schema.factors == panel.schema.features
    assert panel.num_features == 20
    assert shard.features.dtype == np.int8
    assert np.unique(shard.features).tolist() == [0, 1, 2, 3, 4]
    assert len(np.unique(shard.ids)) == panel.num_rows
    assert all(len(name) == 16 and name[0] == "n" for name in shard.ids[:10])


def test_eras_are_ragged_within_a_tenth(panel):
    lengths = np.diff(panel.shards[0].offsets)
    assert lengths.min() >= 900
    assert lengths.max() <= 1000
    assert len(set(lengths)) > 5


def test_features_fill_their_bins_equally_in_each_era(panel):
    shard = panel.shards[0]
    for start, stop in zip(shard.offsets, shard.offsets[1:], strict=False):
        counts = np.apply_along_axis(np.bincount, 0, shard.features[start:stop], minlength=5)
        assert counts.max() - counts.min() <= 1


def test_targets_step_as_numerais_do(panel):
    values, counts = np.unique(panel.shards[0].target, return_counts=True)
    assert values.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert counts / panel.num_rows == pytest.approx([0.05, 0.2, 0.5, 0.2, 0.05], abs=0.002)


def test_features_of_a_block_are_correlated_and_others_are_not(panel):
    correlation = np.corrcoef(panel.shards[0].features.T)
    inside = correlation[:5, :5][np.triu_indices(5, 1)]
    assert inside.min() > 0.4
    assert np.abs(correlation[:5, 5:]).max() < 0.03


def test_the_stable_signal_pays_in_every_era_and_factor_bets_only_vary(panel):
    stable, linear = [], []
    for X, y in eras_of(panel):
        a, b = X[:, :10], X[:, -10:]
        stable.append(np.corrcoef((np.tanh(1.5 * a) + a * b).sum(axis=1), y)[0, 1])
        linear.append(np.corrcoef(X[:, :5].sum(axis=1), y)[0, 1])
    # Cutting the target into five values costs a few per cent of each correlation.
    assert np.mean(stable) == pytest.approx(STABLE**0.5, rel=0.15)
    assert np.std(linear) == pytest.approx((UNSTABLE / 4) ** 0.5, rel=0.2)
    assert abs(np.mean(linear)) < 0.1


def test_shares_are_those_asked_for():
    shares = {"stable": 0.2, "unstable": 0.5, "noise": 0.3}
    stable, linear = [], []
    for X, y in eras_of(synthetic(num_eras=60, rows=1000, num_features=20, seed=3, **shares)):
        a, b = X[:, :10], X[:, -10:]
        stable.append(np.corrcoef((np.tanh(1.5 * a) + a * b).sum(axis=1), y)[0, 1])
        linear.append(np.corrcoef(X[:, :5].sum(axis=1), y)[0, 1])
    # Besides the five values, the returns' chance correlation with the signal costs some.
    assert np.mean(stable) == pytest.approx(0.9 * 0.2**0.5, rel=0.1)
    assert np.std(linear) == pytest.approx((0.5 / 4) ** 0.5, rel=0.2)


def test_the_default_shares_are_the_documented_ones(panel):
    told = synthetic(num_eras=60, rows=1000, num_features=20, seed=3, stable=STABLE, unstable=UNSTABLE, noise=NOISE)
    assert told.digest == panel.digest
    assert (STABLE, UNSTABLE, NOISE) == (0.05, 0.15, 0.8)


@pytest.mark.parametrize(
    "shares",
    [{"stable": 0.1}, {"stable": -0.05, "unstable": 0.25}, {"noise": float("nan")}],
    ids=["sum", "sign", "nan"],
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(InvalidArgumentError, match=r"stable, unstable, noise: expected shares of at least 0"):
        synthetic(num_eras=2, rows=5, num_features=2, seed=0, **shares)


@pytest.mark.parametrize(("stable", "unstable", "noise"), [(STABLE, UNSTABLE, NOISE), (0.4, 0.1, 0.5), (0.3, 0.7, 0.0)])
def test_the_oracle_is_calibrated(stable, unstable, noise):
    made = synthetic(num_eras=120, rows=300, num_features=50, seed=7, stable=stable, unstable=unstable, noise=noise)
    batch = made.batch(range(made.num_eras))
    y, p = batch.target.double(), synthetic_oracle(batch, stable=stable)
    assert p[~batch.present].eq(0).all()
    # An unbiased slope on the whole and on the steep part alone; the factor returns make a few per cent uncertain.
    for rows in (batch.present, batch.present & (p.abs() > p.std())):
        assert float((p * y)[rows].sum() / p[rows].square().sum()) == pytest.approx(1, abs=0.08)
    corr = torch.corrcoef(torch.stack([p[batch.present], y[batch.present]]))[0, 1]
    assert float(corr) == pytest.approx(0.9 * stable**0.5, rel=0.1)


@pytest.mark.parametrize("stable", [-0.1, 1.0, float("nan")])
def test_an_oracle_of_a_share_that_is_none_is_refused(panel, stable):
    with pytest.raises(InvalidArgumentError, match=r"stable: expected a share within \[0, 1\)"):
        synthetic_oracle(panel.batch([0]), stable=stable)


def test_the_seed_decides_everything_and_eras_extend():
    def make(num_eras=3, seed=1):
        return synthetic(num_eras=num_eras, rows=50, num_features=7, seed=seed)

    assert make().digest == make().digest
    assert make().digest != make(seed=2).digest
    assert make(num_eras=5).cut(0, 3).digest == make().digest


@pytest.mark.parametrize(("rows", "num_features"), [(2, 1), (3, 2), (20, 3)])
def test_small_sizes_work(rows, num_features):
    panel = synthetic(num_eras=2, rows=rows, num_features=num_features, seed=0)
    batch = panel.batch([0, 1])
    assert batch.features.isfinite().all()
    assert batch.target.isfinite().all()


@pytest.mark.parametrize(("name", "value"), [("num_eras", 0), ("rows", 1), ("num_features", 0)])
def test_sizes_too_small_are_refused(name, value):
    with pytest.raises(InvalidArgumentError, match=rf"{name} must be at least \d, got {value}"):
        synthetic(**{"num_eras": 2, "rows": 5, "num_features": 2, "seed": 0, name: value})
