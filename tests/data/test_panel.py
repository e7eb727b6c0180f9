import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

from alignray.data import Panel, Schema, Shard, regroup
from alignray.errors import DataError, InvalidArgumentError

LENGTHS = (3, 5, 2, 4)
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"))


def make_panel(lengths=LENGTHS, d=3, factors=None, extra=None, bins=5, seed=0):
    rng = np.random.default_rng(seed)
    N = sum(lengths)
    features = tuple(f"feature_{i}" for i in range(d))
    schema = Schema(era="era", target="target", id="id", features=features, factors=factors or features, bins=bins)
    codes = rng.integers(0, 5, (N, d)).astype(np.int8)
    shard = Shard(
        eras=tuple(f"{era:04d}" for era in range(1, len(lengths) + 1)),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        features=codes if bins else rng.standard_normal((N, d)).astype(np.float32),
        factors=extra,
        target=rng.standard_normal(N).astype(np.float32),
        ids=np.array([f"n{row:02d}" for row in range(N)]),
    )
    return Panel(schema, (shard,))


def change(panel, **arrays):
    """The panel with arrays of its only shard replaced."""
    return Panel(panel.schema, (replace(panel.shards[0], **arrays),))


def target_with(panel, values):
    """The panel with other targets for its first rows."""
    target = panel.shards[0].target.copy()
    target[: len(values)] = values
    return change(panel, target=target)


def test_the_sizes():
    panel = make_panel(factors=("feature_2", "feature_0"))
    assert (panel.num_eras, panel.num_rows, panel.num_features, panel.num_factors) == (4, 14, 3, 2)
    assert panel.eras == ("0001", "0002", "0003", "0004")


def test_a_batch_holds_the_rows_of_its_eras_in_the_order_asked():
    panel = regroup(make_panel(bins=None), 3)
    batch = panel.batch([3, 1])
    whole = np.concatenate([shard.features for shard in panel.shards])
    assert batch.features.shape == (2, 5, 3)
    assert torch.equal(batch.features[0, :4], torch.from_numpy(whole[10:14]))
    assert torch.equal(batch.features[1], torch.from_numpy(whole[3:8]))
    assert batch.eras.tolist() == [3, 1]
    assert batch.present.sum(-1).tolist() == [4, 5]


def test_a_batch_has_the_documented_types():
    batch = make_panel().batch(np.array([0, 1]))
    assert batch.features.dtype == batch.factors.dtype == batch.target.dtype == torch.float32
    assert batch.mask.dtype == batch.present.dtype == torch.bool
    assert batch.eras.dtype == torch.int64


@pytest.mark.parametrize("bins", [5, None])
def test_padding_is_zero_and_changes_nothing(bins):
    panel = make_panel(bins=bins)
    alone, beside = panel.batch([2]), panel.batch([1, 2])
    assert alone.features.shape[1] == 2
    for name in ("features", "factors", "target", "mask", "present"):
        padded = getattr(beside, name)[1]
        assert torch.equal(padded[:2], getattr(alone, name)[0]), name
        assert not padded[2:].any(), name


def test_codes_become_numbers_of_mean_zero_and_variance_one():
    codes = np.arange(5, dtype=np.int8)[:, None].repeat(3, axis=1)
    panel = change(make_panel(lengths=(5,)), features=codes)
    column = panel.batch([0]).features[0, :, 0]
    assert torch.allclose(column, torch.tensor([-2.0, -1, 0, 1, 2]) / 2**0.5)
    assert column[2] == 0


def test_targets_are_standardised_over_the_known_rows():
    panel = target_with(make_panel(), [1.0, np.nan, 4.0])
    batch = panel.batch([0, 1])
    assert torch.equal(batch.target[0, :3], torch.tensor([-1.0, 0.0, 1.0]))
    assert batch.mask[0].tolist() == [True, False, True, False, False]
    assert batch.present[0].tolist() == [True, True, True, False, False]
    assert batch.target[1].mean().abs() < 1e-6
    assert batch.target[1].std(correction=0) == pytest.approx(1)


@pytest.mark.parametrize("targets", [[0.1, 0.1, 0.1], [0.1, np.nan, 0.1], [np.nan, 2.0, np.nan], [np.nan] * 3], ids=str)
def test_an_era_whose_targets_rank_nothing_is_masked_but_present(targets):
    batch = target_with(make_panel(), targets).batch([0])
    assert not batch.mask.any()
    assert not batch.target.any()
    assert batch.present.all()


def test_targets_that_barely_differ_still_rank():
    batch = target_with(make_panel(), [0.1, np.nan, np.nextafter(np.float32(0.1), np.float32(1))]).batch([0])
    assert batch.target[0].tolist() == [-1, 0, 1]


def test_factors_among_the_features_are_taken_from_them():
    panel = make_panel(factors=("feature_2", "feature_0"))
    batch = panel.batch([0, 1])
    assert torch.equal(batch.factors, batch.features[..., [2, 0]])


def test_factors_are_the_features_by_default():
    batch = make_panel().batch([0, 1])
    assert torch.equal(batch.factors, batch.features)


def test_factors_apart_are_decoded_if_they_are_codes_and_plain_otherwise():
    codes = np.full((14, 1), 4, np.int8)
    coded = make_panel(factors=("beta",), extra=codes).batch([0, 1])
    assert torch.allclose(coded.factors[0, :3, 0], torch.tensor(2**0.5))
    assert not coded.factors[0, 3:].any()
    plain = make_panel(factors=("beta",), extra=np.full((14, 1), 4, np.float32)).batch([0, 1])
    assert plain.factors[0, :, 0].tolist() == [4, 4, 4, 0, 0]


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_batch_lands_on_the_device(device):
    panel = make_panel(factors=("feature_1",))
    batch, plain = panel.batch([0, 1], device=device), panel.batch([0, 1])
    for name in ("features", "factors", "target", "mask", "present", "eras"):
        tensor = getattr(batch, name)
        assert tensor.device.type == device, name
        assert torch.allclose(tensor.cpu().double(), getattr(plain, name).double()), name


@pytest.mark.parametrize("eras", [[], [[0]], [0.5], [True, False]], ids=str)
def test_a_batch_of_no_era_indices_is_refused(eras):
    with pytest.raises(InvalidArgumentError, match="non-empty list of era indices"):
        make_panel().batch(eras)


@pytest.mark.parametrize("era", [-1, 4])
def test_a_batch_of_an_era_that_is_not_there_is_refused(era):
    with pytest.raises(InvalidArgumentError, match=f"holds {era}, expected indices from 0 to 3"):
        make_panel().batch([0, era])


def test_the_digest_does_not_see_how_eras_are_grouped():
    panel = make_panel()
    digests = {regroup(panel, size).digest for size in (1, 2, 3, 9)}
    assert digests == {panel.digest}
    assert len(panel.digest) == 64


def test_the_digest_sees_everything_else():
    panel = make_panel(factors=("beta",), extra=np.zeros((14, 1), np.float32))
    shard = panel.shards[0]
    ids = shard.ids.copy()
    ids[-1] = "n99"
    variants = [
        panel,
        change(panel, features=np.roll(shard.features, 1, axis=0)),
        change(panel, factors=shard.factors + 1),
        change(panel, factors=shard.factors.astype(np.int8)),
        change(panel, target=-shard.target),
        change(panel, ids=ids),
        change(panel, eras=("0001", "0002", "0003", "0005")),
        change(panel, eras=("0001", "0002", "00030", "004")),
        change(panel, offsets=np.array([0, 4, 8, 10, 14])),
        Panel(replace(panel.schema, target="other"), panel.shards),
    ]
    assert len({variant.digest for variant in variants}) == len(variants)


def test_the_digest_does_not_see_how_ids_are_stored():
    panel = make_panel()
    ids = panel.shards[0].ids
    assert change(panel, ids=ids.astype("U40")).digest == panel.digest
    assert change(panel, ids=ids.astype(object)).digest == panel.digest


def test_a_panel_survives_pickling():
    panel = regroup(make_panel(), 2)
    again = pickle.loads(pickle.dumps(panel))
    assert again.schema == panel.schema
    assert again.digest == panel.digest
    assert torch.equal(again.batch([1, 3]).features, panel.batch([1, 3]).features)


def test_a_shard_travels_without_a_copy_and_may_be_read_only():
    panel = make_panel()
    buffers = []
    data = pickle.dumps(panel.shards[0], protocol=5, buffer_callback=buffers.append)
    shard = pickle.loads(data, buffers=[memoryview(bytes(buffer)) for buffer in buffers])
    assert not shard.features.flags.owndata
    assert not shard.features.flags.writeable
    assert shard.ids.dtype.kind == "U"
    assert len(buffers) == 4  # offsets, features, target and ids: nothing is serialised in band
    again = Panel(panel.schema, (shard,))
    assert again.shards[0].features is shard.features
    assert again.digest == panel.digest
    assert torch.equal(again.batch([0, 1]).target, panel.batch([0, 1]).target)


def test_a_cut_holds_its_eras_as_views():
    panel = regroup(make_panel(), 3)
    part = panel.cut(1, 4)
    assert part.eras == ("0002", "0003", "0004")
    assert torch.equal(part.batch([0, 2]).features, panel.batch([1, 3]).features)
    assert np.shares_memory(part.shards[0].features, panel.shards[0].features)
    with pytest.raises(InvalidArgumentError, match="first=2, last=2"):
        panel.cut(2, 2)
    with pytest.raises(InvalidArgumentError, match="first=0, last=5"):
        panel.cut(0, 5)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"offsets": np.array([0, 14])}, "4 eras has offsets of shape"),
        ({"offsets": np.array([0, 3, 3, 10, 14])}, "every era has a row"),
        ({"offsets": np.array([1, 3, 8, 10, 14])}, "rise from 0"),
        ({"target": np.zeros(13, np.float32)}, "target has 13 rows, expected 14"),
        ({"target": np.zeros(14)}, "target must be a contiguous array of float32"),
        ({"features": np.zeros((14, 6), np.int8)[:, ::2]}, "features must be a contiguous array"),
        ({"ids": np.zeros(14, np.int64)}, "ids must be a contiguous array of str_ or object_"),
    ],
)
def test_a_shard_whose_arrays_do_not_fit_is_refused(arrays, words):
    with pytest.raises(DataError, match=words):
        change(make_panel(), **arrays)


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"features": np.zeros((14, 2), np.int8)}, "features are int8 with 2 columns, but .* int8 with 3 columns"),
        ({"features": np.zeros((14, 3), np.float32)}, "features are float32"),
        ({"factors": np.zeros((14, 3), np.float32)}, "factors are float32 with 3 columns, but .* absent"),
        ({"ids": None}, "ids are absent"),
    ],
)
def test_a_shard_that_does_not_fit_the_schema_is_refused(arrays, words):
    with pytest.raises(DataError, match=words):
        change(make_panel(), **arrays)


def test_factors_apart_are_stored_alike_in_all_shards():
    panel = regroup(make_panel(factors=("beta",), extra=np.zeros((14, 1), np.int8)), 2)
    first, second = panel.shards
    with pytest.raises(DataError, match=r"factors are float32 with 1 columns, but .* int8"):
        Panel(panel.schema, (first, replace(second, factors=second.factors.astype(np.float32))))
    with pytest.raises(DataError, match="factors are absent"):
        Panel(panel.schema, (first, replace(second, factors=None)))


def test_a_panel_without_eras_or_with_one_twice_is_refused():
    panel = make_panel()
    with pytest.raises(DataError, match="at least one shard"):
        Panel(panel.schema, ())
    with pytest.raises(DataError, match="two eras '0001'"):
        Panel(panel.schema, panel.shards * 2)
