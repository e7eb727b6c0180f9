import datetime
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from panel_files import make_frame

from alignray.data import Panel
from alignray.errors import DataError


def refused(words, frame=None, **arguments):
    with pytest.raises(DataError, match=words) as caught:
        Panel.from_frame(make_frame() if frame is None else frame, **arguments)
    assert "\n" not in str(caught.value)


@st.composite
def frames(draw):
    """A frame with shuffled rows, ragged eras and missing targets, and how many eras it has."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    d, coded = draw(st.integers(1, 4)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    N = sum(lengths)
    eras = np.repeat(np.arange(7, 7 + len(lengths)), lengths)
    kind = draw(st.sampled_from(["int", "text", "date"]))
    labels = {
        "int": eras,
        "text": [f"{era:03d}" for era in eras],
        "date": [datetime.date(2020, 1, 1) + datetime.timedelta(days=int(era)) for era in eras],
    }
    X = rng.integers(0, 5, (N, d), dtype=np.int8) if coded else rng.standard_normal((N, d))
    frame = pd.DataFrame(X, columns=[f"feature_{i}" for i in range(d)])
    frame["era"], frame["id"] = labels[kind], [f"n{row}" for row in range(N)]
    frame["target"] = np.where(rng.random(N) < 0.3, np.nan, rng.standard_normal(N))
    return frame.iloc[rng.permutation(N)].reset_index(drop=True)


@given(frames())
@settings(deadline=None)
def test_a_frame_comes_back_in_batches(frame):
    panel = Panel.from_frame(frame)
    groups = list(frame.groupby("era", sort=True))
    assert panel.eras == tuple(str(label) for label, _ in groups)
    batch = panel.batch(range(panel.num_eras))
    for era, (_, rows) in enumerate(groups):
        n = len(rows)
        X = rows.filter(like="feature_").to_numpy(np.float32)
        expected = (X - 2) / np.float32(2**0.5) if panel.schema.bins else X
        np.testing.assert_allclose(batch.features[era, :n], expected, rtol=1e-6)
        assert batch.present[era].sum() == n
        y = rows["target"].astype(np.float32).astype(float)
        known = y.notna() & (y.nunique() > 1)
        np.testing.assert_array_equal(batch.mask[era, :n], known)
        standardised = ((y - y.mean()) / y.std(ddof=0)).where(known, 0)
        np.testing.assert_allclose(batch.target[era, :n], standardised, atol=1e-5)
    ids = [name for shard in panel.shards for name in shard.ids]
    assert ids == [name for _, rows in groups for name in rows["id"]]


@given(frames())
@settings(max_examples=15, deadline=None)
def test_a_parquet_file_is_the_same_panel_as_its_frame(frame):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.parquet"
        frame.set_index("id").to_parquet(path, row_group_size=4)
        assert Panel.from_parquet(path).digest == Panel.from_frame(frame).digest


def test_one_missing_target_is_as_missing_as_another(tmp_path):
    negative = make_frame(target=np.where(make_frame()["target"].isna(), -np.nan, make_frame()["target"]))
    table = pa.Table.from_pydict({name: pa.array(values.to_numpy()) for name, values in negative.items()})
    assert table["target"].null_count == 0
    pq.write_table(table, tmp_path / "data.parquet")
    assert Panel.from_parquet(tmp_path / "data.parquet").digest == Panel.from_frame(make_frame()).digest


def test_more_columns_than_are_read_at_once(tmp_path):
    X = np.random.default_rng(0).integers(0, 5, (6, 150), dtype=np.int8)
    frame = pd.DataFrame(X, columns=[f"feature.{i}" for i in range(150)]).assign(
        era=[2, 1, 2, 1, 2, 1], target=np.arange(6.0)
    )
    frame.to_parquet(tmp_path / "wide.parquet")
    panel = Panel.from_parquet(tmp_path / "wide.parquet", features="feature.*")
    np.testing.assert_array_equal(panel.shards[0].features, X[[1, 3, 5, 0, 2, 4]])


def test_only_the_columns_asked_for_are_touched(tmp_path):
    frame = make_frame(junk=[object()] * 6)
    assert Panel.from_frame(frame).num_features == 2
    make_frame(junk=["text"] * 6).to_parquet(tmp_path / "data.parquet")
    assert Panel.from_parquet(tmp_path / "data.parquet").num_features == 2


# Columns


def test_features_are_chosen_by_patterns_and_names_in_that_order():
    frame = make_frame(beta=0.5)
    panel = Panel.from_frame(frame, features=["feature_y", "feature_*"], factors=["feature_x"])
    assert panel.schema.features == ("feature_y", "feature_x")
    assert panel.schema.factors == ("feature_x",)
    everything = Panel.from_frame(frame, features="*")
    assert everything.schema.features == ("feature_x", "feature_y", "beta")


def test_a_name_with_brackets_is_a_name_before_it_is_a_pattern():
    frame = make_frame().rename(columns={"feature_x": "feature[x]"})
    assert Panel.from_frame(frame, features=["feature[x]"]).schema.features == ("feature[x]",)


def test_no_factors_may_be_asked_for():
    assert Panel.from_frame(make_frame(), factors=[]).batch([0]).factors.shape == (1, 3, 0)


def test_coded_factors_that_are_not_features_stay_codes():
    panel = Panel.from_frame(make_frame(), features="feature_x", factors=["feature_x", "feature_y"])
    assert panel.shards[0].factors.dtype == np.int8
    both = Panel.from_frame(make_frame())
    np.testing.assert_array_equal(panel.batch([0, 1]).factors, both.batch([0, 1]).features)


def test_codes_beside_float_factors_become_what_a_batch_would_make_of_them():
    panel = Panel.from_frame(make_frame(beta=1.5), factors=["feature_y", "beta"])
    factors = panel.batch([0]).factors[0]
    np.testing.assert_allclose(factors[:, 0], panel.batch([0]).features[0, :, 1], rtol=1e-6)
    np.testing.assert_array_equal(factors[:, 1], [1.5] * 3)


def test_integers_beside_float_features_are_plain_numbers():
    panel = Panel.from_frame(make_frame(feature_y=np.linspace(0, 1, 6), feature_x=[9, 8, 7, 6, 5, 4]))
    assert panel.schema.bins is None
    assert panel.shards[0].features[:, 0].tolist() == [9, 8, 7, 6, 5, 4]


@pytest.mark.parametrize("kind", ["uint8", "int16", "int64", "Int8"])
def test_integers_of_any_width_are_codes(kind):
    frame = make_frame()
    panel = Panel.from_frame(frame.astype({"feature_x": kind}))
    assert panel.schema.bins == 5
    assert panel.digest == Panel.from_frame(frame).digest


def test_a_missing_code_is_the_middle_one():
    panel = Panel.from_frame(make_frame(feature_x=pd.array([0, None, 2, 3, 4, None], "Int8")))
    assert panel.shards[0].features[:, 0].tolist() == [0, 2, 2, 3, 4, 2]


# Rows


def test_ids_may_be_a_column_the_index_or_absent():
    named = Panel.from_frame(make_frame())
    assert named.shards[0].ids.tolist() == list("abcabc")
    assert Panel.from_frame(make_frame().set_index("id")).digest == named.digest
    assert Panel.from_frame(make_frame().set_index(["era", "id"])).digest == named.digest
    assert Panel.from_frame(make_frame().drop(columns="id")).shards[0].ids is None
    assert Panel.from_frame(make_frame(), id=None).shards[0].ids is None
    numbered = Panel.from_frame(make_frame(number=range(6)), id="number")
    assert numbered.shards[0].ids.tolist() == list("012345")


@pytest.mark.parametrize(
    ("era", "labels"),
    [
        ([10, 10, 10, 9, 9, 9], ("9", "10")),
        (pd.to_datetime(["2020-02-01"] * 3 + ["2019-12-31"] * 3), ("2019-12-31", "2020-02-01")),
        (pd.to_datetime(["2020-02-01 16:00"] * 3 + ["2020-02-01 00:00"] * 3), ("2020-02-01", "2020-02-01T16:00:00")),
        (pd.Categorical(["b"] * 3 + ["a"] * 3, ["b", "a"]), ("a", "b")),
        (pd.Categorical(["b"] * 3 + ["a"] * 3, ["b", "a"], ordered=True), ("b", "a")),
        (["era 10"] * 3 + ["era 09"] * 3, ("era 09", "era 10")),
    ],
    ids=["integers", "dates", "times", "categories", "ordered categories", "padded text"],
)
def test_eras_are_sorted_as_their_type_is(era, labels, tmp_path):
    frame = make_frame(era=era)
    panel = Panel.from_frame(frame)
    assert panel.eras == labels
    rows = panel.shards[0].features[:, 0].tolist()
    assert rows == ([0, 1, 2, 3, 4, 0] if labels == ("b", "a") else [3, 4, 0, 0, 1, 2])
    frame.to_parquet(tmp_path / "data.parquet")
    assert Panel.from_parquet(tmp_path / "data.parquet").digest == panel.digest


# Refusals


@pytest.mark.parametrize("argument", ["era", "target", "id"])
def test_a_missing_column_is_named_beside_those_that_exist(argument):
    refused(rf"no column 'nope'; pass {argument}= .*'era', 'id', 'target'", **{argument: "nope"})


def test_patterns_that_match_nothing_are_named():
    refused(r"no column matches features='f_\*'.*'feature_x'", features="f_*")
    refused(r"no column matches factors='beta'", factors=["feature_x", "beta"])
    refused("features= names no column", features=[])
    refused("no column matches features='target' beside era, target and id", features=["target"])


def test_a_doubled_column_is_named():
    frame = make_frame()
    refused("two columns are called 'feature_x'", pd.concat([frame, frame[["feature_x"]]], axis=1))


@pytest.mark.parametrize(("values", "kind"), [(list("uvwxyz"), "string"), ([True] * 6, "bool"), ([None] * 6, "null")])
def test_a_column_that_is_no_number_is_named(values, kind):
    refused(f"'feature_x' is .*{kind}, expected integers or floats", make_frame(feature_x=values))
    refused(f"'target' is .*{kind}, expected integers or floats", make_frame(target=values))
    refused(f"'beta' is .*{kind}, expected integers or floats", make_frame(beta=values), factors=["beta"])


def test_a_column_of_mixed_types_is_named():
    refused("mixes types.*feature_x", make_frame(feature_x=[1, "a", 2, 3, 4, 0]))


@pytest.mark.parametrize("code", [-1, 5, 300])
def test_a_code_out_of_range_is_named(code):
    refused(
        f"'feature_x' holds {code} in era '0002', expected codes 0 to 4", make_frame(feature_x=[0, 1, 2, 3, code, 0])
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_a_float_feature_that_is_not_finite_is_named(value):
    shown = "inf" if value > 1 else value
    refused(f"'feature_x' holds {shown} in era '0002'", make_frame(feature_x=[0.5, 1, 2, 3, value, 0]))


def test_an_infinite_target_is_named():
    refused("'target' holds -inf in era '0001'", make_frame(target=[0, -np.inf, 1, 0, 0, 1.0]))


def test_no_rows_are_refused():
    refused("no rows", make_frame().iloc[:0])


def test_a_row_without_an_era_is_named():
    refused("'era' has no era in row 1", make_frame(era=["a", None, "a", "b", "b", "b"]))


def test_eras_that_sort_as_text_against_their_numbers_are_refused():
    refused("'era' is text that sorts 'era10' before 'era9'", make_frame(era=["era9"] * 3 + ["era10"] * 3))


def test_ids_that_name_no_row_are_refused():
    refused("'id' holds 'a' twice in era '0001'", make_frame(id=list("aabbcd")))
    refused("'id' has a row without a name in era '0001'", make_frame(id=["a", "b", None, "a", "b", "c"]))
    refused("expected names that can be written as text", make_frame(id=[[1], [2], [3]] * 2))


def test_files_that_are_not_there_or_not_parquet_are_named(tmp_path):
    with pytest.raises(DataError, match=r"nope\.parquet: no such file"):
        Panel.from_parquet(tmp_path / "nope.parquet")
    with pytest.raises(DataError, match="a folder; expected a parquet file"):
        Panel.from_parquet(tmp_path)
    path = tmp_path / "text.parquet"
    path.write_text("era,target\n")
    with pytest.raises(DataError, match=r"text\.parquet: not a parquet file"):
        Panel.from_parquet(str(path))


def test_a_parquet_file_that_was_cut_short_or_damaged_is_named(tmp_path):
    path = tmp_path / "data.parquet"
    make_frame().to_parquet(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="cut short"):
        Panel.from_parquet(path)
    path.write_bytes(whole[:4] + b"\xff" * 200 + whole[204:])
    with pytest.raises(DataError, match="cut short"):
        Panel.from_parquet(path)


def test_a_doubled_column_in_a_parquet_file_is_named(tmp_path):
    table = pa.table([[1], [0.5], [2], [3]], names=["era", "target", "feature_x", "feature_x"])
    pq.write_table(table, tmp_path / "data.parquet")
    with pytest.raises(DataError, match="two columns are called 'feature_x'"):
        Panel.from_parquet(tmp_path / "data.parquet")
