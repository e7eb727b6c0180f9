"""Numerai's files, as `write_numerai_layout` writes them and as Numerai may: read, sifted, and refused."""

import json
import resource
import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from alignray.data.datasets import numerai, synthetic, synthetic_oracle, write_numerai_layout
from alignray.data.datasets.synthetic_folder import TEST_ERAS
from alignray.data.shards.folders import LocalFolder
from alignray.errors import DataError, InvalidArgumentError

SIZES = {"num_eras": 12, "rows": 40, "num_features": 33, "seed": 3}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_numerai_layout(tmp_path_factory.mktemp("numerai"), **SIZES)


@pytest.fixture
def folder(written, tmp_path):
    """A copy, to change."""
    return shutil.copytree(written, tmp_path / "numerai")


def edit(path, change):
    """Change a file as a frame."""
    change(pd.read_parquet(path)).to_parquet(path)


def refused(words, folder, *arguments, **keywords):
    with pytest.raises(DataError, match=words) as caught:
        numerai(folder, *arguments, **keywords)
    assert "\n" not in str(caught.value)


def test_train_and_validation_are_the_synthetic_panel_row_by_row(written):
    panel, made = numerai(written, "all", part=("train", "validation")), synthetic(**SIZES)
    assert panel.schema == made.schema
    assert panel.eras == made.eras
    for name in ("features", "target", "ids"):
        read = np.concatenate([getattr(shard, name) for shard in panel.shards])
        np.testing.assert_array_equal(read, getattr(made.shards[0], name))
    assert panel.digest == made.digest


def test_a_part_is_its_own_file(written):
    made = synthetic(**SIZES)
    assert numerai(written, "all").digest == made.cut(0, 8).digest
    assert numerai(written, "all", part="validation").digest == made.cut(8, 12).digest


def test_live_has_features_and_no_target(written):
    panel = numerai(written, "all", part="live")
    assert panel.eras == ("X",)
    after = synthetic(**SIZES | {"num_eras": 12 + TEST_ERAS + 1}).cut(12 + TEST_ERAS, 12 + TEST_ERAS + 1).shards[0]
    np.testing.assert_array_equal(panel.shards[0].features, after.features)
    assert np.isnan(panel.shards[0].target).all()
    assert not panel.batch([0]).mask.any()
    everything = numerai(written, "all", part=("train", "validation", "live"))
    assert everything.eras[-2:] == ("0012", "X")


@pytest.mark.parametrize("change", [lambda df: df.drop(columns="target"), lambda df: df.assign(target=None)])
def test_live_may_lack_the_column_of_the_target(folder, change):
    before = numerai(folder, part="live")
    edit(folder / "live.parquet", change)
    assert numerai(folder, part="live").digest == before.digest


@pytest.mark.parametrize(("feature_set", "number"), [("small", 20), ("medium", 20), ("all", 33)])
def test_a_feature_set_is_the_features_that_the_file_lists(written, feature_set, number):
    panel = numerai(written, feature_set)
    listed = json.loads((written / "features.json").read_text())["feature_sets"][feature_set]
    assert panel.schema.features == panel.schema.factors == tuple(listed)
    assert panel.num_features == number
    everything = numerai(written, "all")
    columns = [everything.schema.features.index(name) for name in listed]
    np.testing.assert_array_equal(panel.shards[0].features, everything.shards[0].features[:, columns])


def test_any_set_of_the_description_will_do_and_factors_may_be_another(folder):
    description = json.loads((folder / "features.json").read_text())
    description["feature_sets"]["fncv3_features"] = ["feature_0030", "feature_0002"]
    (folder / "features.json").write_text(json.dumps(description))
    assert numerai(folder, "fncv3_features").schema.features == ("feature_0030", "feature_0002")
    panel = numerai(folder, "small", factor_set="fncv3_features")
    assert panel.num_features == 20
    assert panel.schema.factors == ("feature_0030", "feature_0002")
    batch, whole = panel.batch([1]), numerai(folder, "all").batch([1])
    assert batch.factors.equal(whole.features[..., [30, 2]])


@pytest.mark.parametrize("target", ["target_cyrusd_20", "target_cyrusd_60"])
def test_any_target_will_do(written, target):
    panel = numerai(written, target=target)
    assert panel.schema.target == target
    np.testing.assert_array_equal(panel.shards[0].target, pd.read_parquet(written / "train.parquet")[target])


def test_missing_codes_are_the_middle_one_however_they_are_written(folder):
    def change(df):
        df["feature_0000"] = df["feature_0000"].astype("Int8").mask(df["feature_0000"] == 4)  # nulls among int8
        df["feature_0001"] = df["feature_0001"].where(df["feature_0001"] != 4)  # NaN among floats
        return df

    before = numerai(folder).shards[0].features[:, :2]
    edit(folder / "train.parquet", change)
    after = numerai(folder).shards[0].features
    assert after.dtype == np.int8
    np.testing.assert_array_equal(after[:, :2], np.where(before == 4, 2, before))


def test_eras_may_come_in_any_order(folder):
    before = numerai(folder, part="validation")
    edit(folder / "validation.parquet", lambda df: df.sort_values("era", ascending=False, kind="stable"))
    assert numerai(folder, part="validation").digest == before.digest


@pytest.mark.parametrize("name", ["features.json", "train.parquet", "validation.parquet", "live.parquet"])
def test_a_file_that_is_missing_is_named_with_the_command_that_downloads_it(folder, name):
    (folder / name).unlink()
    refused(
        rf"{name}: missing; download .*: alignray data numerai {folder}", folder, part=("train", "validation", "live")
    )


def test_a_folder_that_is_missing_is_named(tmp_path):
    refused(f"{tmp_path / 'none'}: no such folder; download .*: alignray data numerai", tmp_path / "none")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"feature_set": "large"}, "no set 'large'; pass feature_set= one of small, medium, all"),
        ({"factor_set": "large"}, "no set 'large'; pass factor_set= one of small, medium, all"),
        ({"target": "target_bravo"}, r"train.parquet: no target 'target_bravo'; pass target= one of target, target_cy"),
        ({"target": "target_bravo", "part": "live"}, "live.parquet: no target 'target_bravo'"),
        ({"part": ("validation", "train")}, "era '0001' follow '0012'; name parts in time order"),
        ({"part": ("train", "train")}, "era '0001' follow '0008'; name parts in time order, each once"),
    ],
)
def test_what_is_missing_is_named(written, arguments, words):
    refused(words, written, **arguments)


@pytest.mark.parametrize("part", ["test", (), ("train", "tournament")])
def test_a_part_that_is_none_is_refused(written, part):
    with pytest.raises(InvalidArgumentError, match="part: expected some of train, validation, live, got"):
        numerai(written, part=part)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda df: df.drop(columns=["feature_0001", "feature_0002"]), "lacks 2 of the 20 features .* 'feature_0001'"),
        (lambda df: df.drop(columns="era"), "no column 'era'"),
        (
            lambda df: df.assign(feature_0001=df["feature_0001"] / 4),
            r"column 'feature_0001' is double and not all codes",
        ),
        (lambda df: df.assign(feature_0001=df["feature_0001"] + 1), r"column 'feature_0001' holds 5 in era '0001'"),
        (lambda df: df.assign(feature_0001="a"), r"column 'feature_0001' is (large_)?string and not all codes 0 to 4"),
        (lambda df: df.assign(target="a"), "column 'target' is (large_)?string, expected integers or floats"),
    ],
)
def test_what_cannot_be_used_is_named(folder, change, words):
    edit(folder / "train.parquet", change)
    refused(words, folder)


NO_DESCRIPTIONS = [
    "",
    "[]",
    "{}",
    '{"feature_sets": 3, "targets": []}',
    '{"feature_sets": {"small": 5}, "targets": []}',
]


@pytest.mark.parametrize("text", NO_DESCRIPTIONS)
def test_a_description_that_is_none_is_named(folder, text):
    (folder / "features.json").write_text(text)
    refused("features.json: expected JSON with feature_sets and targets .* delete it and download it again", folder)


def test_a_file_that_was_cut_short_is_named(folder):
    path = folder / "train.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    refused("train.parquet: not a parquet file, or cut short", folder)


def test_the_files_are_laid_out_as_numerai_lays_them_out(written):
    train, validation, live = (pq.read_schema(written / f"{part}.parquet") for part in ("train", "validation", "live"))
    assert train == validation == live
    assert train.pandas_metadata["index_columns"] == ["id"]
    assert {str(train.field(name).type) for name in train.names if name.startswith("feature")} == {"int8"}
    frame = pd.read_parquet(written / "validation.parquet")
    assert frame.index.name == "id"
    assert list(frame)[:3] == ["era", "data_type", "feature_0000"]
    assert list(frame)[-3:] == ["target", "target_cyrusd_20", "target_cyrusd_60"]
    by_type = frame.groupby("data_type")
    assert by_type["era"].agg(["min", "max"]).to_numpy().tolist() == [["0013", "0016"], ["0009", "0012"]]
    assert by_type["target"].count().to_dict()["test"] == 0


def test_the_auxiliary_target_resembles_the_target_and_has_holes(written):
    frame = pd.read_parquet(written / "train.parquet")
    assert frame["target"].equals(frame["target_cyrusd_20"].rename("target"))
    assert 0 < frame["target_cyrusd_60"].isna().mean() < 0.06
    assert 0.7 < frame["target"].corr(frame["target_cyrusd_60"]) < 0.95


@pytest.mark.parametrize("num_features", [1, 3, 5, 20, 33, 100])
def test_the_sets_are_nested_and_the_oracle_predicts_alike_from_each(tmp_path, num_features):
    folder = write_numerai_layout(tmp_path, **SIZES | {"num_eras": 2, "num_features": num_features})
    small, medium, everything = (numerai(folder, name) for name in ("small", "medium", "all"))
    assert set(small.schema.features) <= set(medium.schema.features) <= set(everything.schema.features)
    expected = synthetic_oracle(everything.batch([0]))
    for panel in (small, medium):
        assert synthetic_oracle(panel.batch([0])).equal(expected)


def test_row_groups_hold_whole_eras_and_change_nothing(monkeypatch, tmp_path):
    monkeypatch.setattr("alignray.data.datasets.synthetic_folder._ROWS_OF_A_GROUP", 90)
    folder = write_numerai_layout(tmp_path, **SIZES, validation_eras=2)
    file = pq.ParquetFile(folder / "train.parquet")
    assert file.num_row_groups == 4  # of three eras of at least 36 rows, the last of one
    assert numerai(folder, "all", part=("train", "validation")).digest == synthetic(**SIZES).digest


def test_shares_are_passed_on(tmp_path):
    shares = {"stable": 0.3, "unstable": 0.3, "noise": 0.4}
    folder = write_numerai_layout(tmp_path, **SIZES, **shares)
    assert numerai(folder, "all", part=("train", "validation")).digest == synthetic(**SIZES, **shares).digest


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"num_eras": 1}, "num_eras must be at least 2, got 1"),
        ({"validation_eras": 0}, "validation_eras must be from 1 to num_eras − 1 = 11, got 0"),
        ({"validation_eras": 12}, "validation_eras must be from 1 to num_eras − 1 = 11, got 12"),
        ({"rows": 1}, "rows must be at least 2, got 1"),
        ({"seed": -1}, "seed must be at least 0, got -1"),
        ({"stable": 0.5}, "stable, unstable, noise: expected shares"),
    ],
)
def test_a_layout_that_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments, words):
    with pytest.raises(InvalidArgumentError, match=words):
        write_numerai_layout(tmp_path / "none", **SIZES | arguments)
    assert not (tmp_path / "none").exists()


def test_a_folder_in_use_is_left_alone(folder, tmp_path):
    with pytest.raises(DataError, match=r"holds a features.json already; choose another folder"):
        write_numerai_layout(folder, **SIZES)
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: a file; expected a folder"):
        write_numerai_layout(tmp_path / "file", **SIZES)


def test_a_layout_does_not_replace_files_that_another_wrote(tmp_path):
    (tmp_path / "train.parquet").write_bytes(b"downloaded")
    with pytest.raises(DataError, match=r"holds a train.parquet already; choose another folder"):
        write_numerai_layout(tmp_path, **SIZES)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"downloaded"]


def test_a_layout_that_another_process_writes_is_left_to_it(tmp_path):
    with (
        LocalFolder(tmp_path / "numerai").writing(),
        pytest.raises(DataError, match="another process writes here; wait for it, or choose another"),
    ):
        write_numerai_layout(tmp_path / "numerai", **SIZES)


def test_a_full_disk_leaves_nothing_of_a_layout(tmp_path):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, unlimited[1]))  # as near as a test can come to a full disk
    try:
        with pytest.raises(DataError, match=r"numerai: cannot be written to \(.+\); see to its free space") as caught:
            write_numerai_layout(tmp_path / "numerai", **SIZES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_layout_leaves_nothing(monkeypatch, tmp_path):
    def interrupted(names):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignray.data.datasets.synthetic_folder._feature_sets", interrupted)  # after the other files
    with pytest.raises(KeyboardInterrupt):
        write_numerai_layout(tmp_path / "numerai", **SIZES)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_whole_once_it_has_its_description(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("alignray.data.datasets.synthetic_folder._feature_sets", fail)
    with pytest.raises(KeyboardInterrupt):
        write_numerai_layout(tmp_path, **SIZES)
    assert not (tmp_path / "features.json").exists()
    monkeypatch.undo()
    assert numerai(write_numerai_layout(tmp_path, **SIZES)).num_eras == 8
