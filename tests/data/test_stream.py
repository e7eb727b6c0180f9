import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_files import LOADERS, WRITERS, assert_holds, expected, frames, write

from alignray.data import Panel, loading, open_stream
from alignray.errors import DataError, InvalidArgumentError

KINDS = sorted(WRITERS)


def make_frame(**columns):
    """Three eras of two rows."""
    frame = pd.DataFrame(
        {
            "era": np.repeat(["0001", "0002", "0010"], 2),
            "id": list("ababab"),
            "target": [0.0, 1.0, np.nan, 0.5, 0.25, 0.75],
            "feature_x": pd.array([0, 1, 2, None, 4, 0], "Int8"),
            "feature_y": np.array([4, 3, 2, 1, 0, 4], np.int8),
        }
    )
    return frame.assign(**columns)


@pytest.fixture
def small_shards(monkeypatch):
    """Two features a row, so that a shard holds three rows at most: one era of two."""
    monkeypatch.setattr(loading, "_SHARD_BYTES", 6)


@pytest.mark.parametrize("kind", KINDS)
@given(frame=frames(in_order=True), bins=st.sampled_from([2, 5, 7]))
def test_what_is_streamed_is_what_is_loaded(kind, frame, bins):
    with tempfile.TemporaryDirectory() as folder:
        path = write(frame, Path(folder), kind)
        bins = max(bins, 5) if frame["feature_0"].dtype == "Int8" else bins  # the codes go to 4
        stream = open_stream(path, bins=bins)
        streamed = Panel(stream.schema, tuple(stream.shards))
        assert streamed.digest == LOADERS[kind](path, bins=bins).digest
        assert_holds(streamed, expected(frame, bins))
        absent = frame.filter(like="feature_").isna().sum()
        assert stream.missing == absent[absent > 0].to_dict()


@pytest.mark.parametrize("kind", KINDS)
def test_eras_come_whole_and_only_as_they_are_asked_for(kind, tmp_path, small_shards):
    stream = open_stream(write(make_frame(), tmp_path, kind))
    assert not stream.missing
    first = next(stream.shards)
    assert (first.eras, first.num_rows) == (("0001",), 2)
    assert not stream.missing
    assert [shard.eras for shard in stream.shards] == [("0002",), ("0010",)]
    assert stream.missing == {"feature_x": 1}


def test_an_era_larger_than_a_shard_is_a_shard(tmp_path, small_shards):
    frame = make_frame(era=["0001"] * 5 + ["0002"], id=list("abcdef"))
    stream = open_stream(write(frame, tmp_path, "parquet"))
    assert [shard.num_rows for shard in stream.shards] == [5, 1]


@pytest.mark.parametrize("kind", KINDS)
def test_shards_have_as_many_eras_as_are_asked_for(kind, tmp_path, small_shards):
    path = write(make_frame(), tmp_path, kind)
    stream = open_stream(path, eras_per_shard=2)
    shards = tuple(stream.shards)
    assert [shard.eras for shard in shards] == [("0001", "0002"), ("0010",)]
    assert Panel(stream.schema, shards).digest == LOADERS[kind](path).digest
    with pytest.raises(InvalidArgumentError, match="eras_per_shard must be at least 1, got 0"):
        open_stream(path, eras_per_shard=0)


def test_many_row_groups_and_batches_make_the_same_panel(tmp_path, monkeypatch, small_shards):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.integers(0, 5, (3000, 2), dtype=np.int8), columns=["feature_a", "feature_b"])
    frame = frame.assign(
        era=np.sort(rng.integers(0, 40, 3000)), id=np.arange(3000).astype(str), target=rng.random(3000)
    )
    monkeypatch.setattr(loading, "_MOST_ROWS", 1 << 10)
    frame.to_parquet(tmp_path / "panel.parquet", row_group_size=700)
    stream = open_stream(tmp_path / "panel.parquet")
    streamed = Panel(stream.schema, tuple(stream.shards))
    assert len(streamed.shards) == 40
    assert streamed.digest == Panel.from_frame(frame).digest


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("eras", "words"),
    [
        (
            ["b", "b", "a", "a", "c", "c"],
            "'era' has era 'a' in row 2, after 'b'; sort the file by 'era', or load it in",
        ),
        (["a", "a", "b", "b", "a", "c"], "'era' has era 'a' in row 4, after 'b'"),
    ],
    ids=["out of order", "split"],
)
def test_eras_that_are_not_in_order_are_refused_by_streams_alone(kind, eras, words, tmp_path):
    path = write(make_frame(era=eras, id=list("abcdef")), tmp_path, kind)
    with pytest.raises(DataError, match=words) as caught:
        open_stream(path)
    assert str(caught.value).startswith(f"{path}: column ")
    assert LOADERS[kind](path).eras == ("a", "b", "c")


def test_a_bad_value_is_found_when_its_era_is_read(tmp_path, small_shards):
    stream = open_stream(write(make_frame(feature_y=[0, 1, 2, 3, 4, 5]), tmp_path, "parquet"))
    assert [next(stream.shards).eras, next(stream.shards).eras] == [("0001",), ("0002",)]
    with pytest.raises(DataError, match=r"panel\.parquet: column 'feature_y' holds 5 in era '0010'"):
        next(stream.shards)


def test_a_name_that_tells_no_kind_is_refused(tmp_path):
    (tmp_path / "panel.xlsx").touch()
    with pytest.raises(
        DataError, match=r"panel\.xlsx: of no kind that is known; expected a file whose name ends in \.parquet"
    ):
        open_stream(tmp_path / "panel.xlsx")


@pytest.mark.parametrize("bins", [1, 0, 128])
def test_bins_out_of_range_are_refused(bins):
    with pytest.raises(InvalidArgumentError, match=f"bins must be from 2 to 127, or None, got {bins}"):
        Panel.from_frame(make_frame(), bins=bins)


# Kinds of files


def test_zero_padded_eras_of_a_csv_file_stay_text(tmp_path):
    path = write(make_frame(), tmp_path, "csv")
    assert Panel.from_csv(path).eras == ("0001", "0002", "0010")


@pytest.mark.parametrize(
    ("eras", "labels"),
    [
        (["9", "10", "100"], ("9", "10", "100")),
        (["-1", "0", "1"], ("-1", "0", "1")),
        (["1.5", "2.5", "10.5"], ("1.5", "2.5", "10.5")),
        (["2019-12-31", "2020-01-01", "2020-02-01"], ("2019-12-31", "2020-01-01", "2020-02-01")),
        (["2020-01-01 09:00:00", "2020-01-01 16:00:00", "2020-01-02 00:00:00"],
         ("2020-01-01T09:00:00", "2020-01-01T16:00:00", "2020-01-02")),
        (["era08", "era09", "era10"], ("era08", "era09", "era10")),
        ([f"1{'0' * 19}{era}" for era in range(1, 4)], tuple(f"1{'0' * 19}{era}" for era in range(1, 4))),
    ],
)  # fmt: skip
def test_eras_of_a_csv_file_are_what_their_text_says(eras, labels, tmp_path):
    path = write(make_frame(era=np.repeat(eras, 2)), tmp_path, "csv")
    assert Panel.from_csv(path).eras == labels
    assert len(list(open_stream(path).shards)) == 1


def test_a_csv_column_is_of_floats_if_its_last_value_is(tmp_path, monkeypatch):
    monkeypatch.setattr("alignray.data.csv_source._BLOCK", 64)
    path = write(make_frame(feature_y=[0, 1, 2, 3, 4, 0.5], feature_x=1), tmp_path, "csv")
    assert Panel.from_csv(path).schema.bins is None
    assert Panel.from_csv(path).shards[0].features[:, 1].tolist() == [0, 1, 2, 3, 4, 0.5]


def test_names_that_look_like_numbers_or_like_nothing_stay_names(tmp_path):
    path = write(make_frame(id=["NA", "null", "007", "NaN", "1e3", "x"]), tmp_path, "csv")
    assert Panel.from_csv(path).shards[0].ids.tolist() == ["NA", "null", "007", "NaN", "1e3", "x"]


@pytest.mark.parametrize("name", ["panel.csv.gz", "PANEL.CSV.GZ"])
def test_a_compressed_csv_file(name, tmp_path):
    make_frame().to_csv(tmp_path / name, index=False, compression="gzip")
    stream = open_stream(tmp_path / name)
    assert Panel(stream.schema, tuple(stream.shards)).digest == Panel.from_frame(make_frame()).digest


@pytest.mark.parametrize("compression", ["lz4", "zstd", "uncompressed"])
def test_a_feather_file(compression, tmp_path):
    frame = make_frame(era=pd.Categorical(list("bbaacc"), list("bac"), ordered=True))
    frame.to_feather(tmp_path / "panel.feather", compression=compression)
    stream = open_stream(tmp_path / "panel.feather")
    assert Panel(stream.schema, tuple(stream.shards)).eras == ("b", "a", "c")


# Bins


def test_floats_are_binned_within_their_era_on_request():
    frame = make_frame(era=["a"] * 5 + ["b"], id=list("abcdef"), feature_y=[0.1, 0.2, 0.3, 0.4, 0.5, 9.0])
    frame["feature_x"] = [5.0, np.nan, 5.0, 7.0, 6.0, 1.0]
    panel = Panel.from_frame(frame, bins=5)
    assert panel.schema.bins == 5
    assert panel.shards[0].features.T.tolist() == [[1, 2, 1, 4, 3, 2], [0, 1, 2, 3, 4, 2]]
    with pytest.raises(DataError, match=r"'feature_x' holds nan in era 'a'.*or bin the features"):
        Panel.from_frame(frame)


def test_codes_beside_floats_that_are_binned_stay_as_they_are():
    panel = Panel.from_frame(make_frame(feature_y=[0.1, 0.2, 0.1, 0.2, 0.1, 0.2]), bins=6)
    assert panel.shards[0].features.T.tolist() == [[0, 1, 2, 3, 4, 0], [1, 4, 1, 4, 1, 4]]
    with pytest.raises(DataError, match="'feature_x' holds 4 in era '0010', expected codes 0 to 3"):
        Panel.from_frame(make_frame(), bins=4)


def test_a_factor_that_is_a_feature_is_binned_as_it_is():
    frame = make_frame(feature_y=[0.1, 0.2, 0.1, 0.2, 0.1, 0.2], beta=0.5)
    panel = Panel.from_frame(frame, factors=["feature_y", "beta"], bins=5)
    batch = panel.batch([0])
    np.testing.assert_allclose(batch.factors[0, :, 0], batch.features[0, :, 1], rtol=1e-6)
    assert batch.factors[0, :, 1].tolist() == [0.5, 0.5]


def test_no_value_of_a_column_that_is_not_asked_for_is_read(tmp_path):
    table = pa.Table.from_pandas(make_frame(junk="text"))
    pq.write_table(table, tmp_path / "panel.parquet", compression="none")
    data = (tmp_path / "panel.parquet").read_bytes()
    (tmp_path / "panel.parquet").write_bytes(data.replace(b"text", b"\xff\xff\xff\xff", 2))
    assert open_stream(tmp_path / "panel.parquet").schema.features == ("feature_x", "feature_y")
    assert Panel.from_parquet(tmp_path / "panel.parquet").digest == Panel.from_frame(make_frame()).digest
