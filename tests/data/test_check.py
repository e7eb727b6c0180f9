import numpy as np
import pandas as pd
import pytest
from panel_files import LOADERS, WRITERS, write

from alignray.data import Panel, write_shards
from alignray.data.check import check
from alignray.errors import DataError

KIND = pytest.mark.parametrize("kind", sorted(WRITERS))


def make_frame(**columns):
    """Three eras of 2, 3 and 1 rows; feature_z never changes, feature_y not within the first era."""
    frame = pd.DataFrame(
        {
            "era": ["0001"] * 2 + ["0002"] * 3 + ["0003"],
            "id": list("abcdea"),
            "target": [0.0, 1.0, 0.5, np.nan, 1.0, np.nan],
            "feature_x": pd.array([0, 1, 2, None, 4, None], "Int8"),
            "feature_y": np.array([1, 1, 2, 3, 4, 0], np.int8),
            "feature_z": np.array([3] * 6, np.int8),
        }
    )
    return frame.assign(**columns)


@KIND
def test_the_facts(kind, tmp_path):
    path = write(make_frame(), tmp_path, kind)
    facts = check(path)
    assert facts.eras == ("0001", "0002", "0003")
    assert facts.lengths.tolist() == [2, 3, 1]
    assert facts.in_order
    assert facts.missing == {"feature_x": 2}
    assert facts.constant == ("feature_z",)
    assert facts.constant_eras == {"feature_y": 1, "feature_z": 2}
    np.testing.assert_array_equal(facts.target, make_frame()["target"].to_numpy(np.float32))
    assert facts.digest == LOADERS[kind](path).digest
    assert [(problem.column, problem.refused) for problem in facts.problems] == [("feature_z", False)]


def test_a_folder_of_shards_has_the_same_facts(tmp_path):
    panel = Panel.from_frame(make_frame())
    facts = check(write_shards(panel, tmp_path / "shards", eras_per_shard=2))
    assert facts.lengths.tolist() == [2, 3, 1]
    assert facts.missing is None
    assert facts.constant_eras == {"feature_y": 1, "feature_z": 2}
    assert facts.digest == panel.digest


@KIND
def test_all_that_is_wrong_is_found_at_once(kind, tmp_path):
    frame = make_frame(
        id=list("aacdea"), target=[0, np.inf, 1, 1, 0, 1], feature_x=[9, 1, 2, 3, 4, -1], feature_y=[0, 1, 2, 8, 0, 1]
    )
    facts = check(write(frame, tmp_path, kind))
    assert {problem.column: problem.what for problem in facts.problems if problem.refused} == {
        "feature_x": "holds 9 in era '0001', expected codes 0 to 4",
        "feature_y": "holds 8 in era '0002', expected codes 0 to 4",
        "target": "holds inf in era '0001', expected finite float32 targets",
        "id": "holds 'a' twice in era '0001'",
    }
    assert facts.digest is None


@KIND
def test_rows_out_of_order_are_a_remark_and_their_facts_the_same(kind, tmp_path):
    frame = make_frame().sample(frac=1, random_state=3, ignore_index=True)
    facts = check(write(frame, tmp_path, kind))
    assert not facts.in_order
    assert facts.lengths.tolist() == [2, 3, 1]
    assert facts.missing == {"feature_x": 2}
    assert facts.constant_eras == {"feature_y": 1, "feature_z": 2}
    assert facts.digest is None
    (remark,) = (problem for problem in facts.problems if problem.column == "era")
    assert not remark.refused
    assert "sort the file" in remark.remedy


def test_a_row_that_comes_again_after_other_eras_is_found(tmp_path):
    frame = pd.concat([make_frame(), make_frame().iloc[:1]], ignore_index=True)
    (refused,) = (problem for problem in check(write(frame, tmp_path, "parquet")).problems if problem.refused)
    assert (refused.column, refused.what) == ("id", "holds 'a' twice in era '0001'")


@pytest.mark.parametrize("shuffled", [False, True])
def test_floats_are_binned_before_they_are_looked_at_only_where_eras_are_whole(shuffled, tmp_path):
    frame = make_frame(feature_x=[0.5, 1.5, 2.5, np.nan, 4.5, 1.0])
    frame = frame.iloc[[5, 0, 2, 1, 3, 4]] if shuffled else frame
    path = write(frame, tmp_path, "parquet")
    facts = check(path, bins=5)
    assert facts.missing == {"feature_x": 1}
    assert facts.constant_eras == {"feature_y": 1, "feature_z": 2}
    assert facts.digest == (None if shuffled else Panel.from_parquet(path, bins=5).digest)
    (refused,) = (problem for problem in check(path).problems if problem.refused)
    assert refused.what == "holds nan in era '0002', expected finite float32 numbers"


def test_what_is_no_panel_at_all_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"panel\.csv: column 'target' is string"):
        check(write(make_frame(target="up"), tmp_path, "csv"))


def test_a_target_that_no_row_has_is_a_remark(tmp_path):
    facts = check(write(make_frame(target=np.nan, feature_z=[3, 3, 3, 3, 3, 2]), tmp_path, "parquet"))
    (remark,) = facts.problems
    assert (remark.column, remark.what, remark.refused) == ("target", "is unknown in every row", False)


def test_a_column_that_is_refused_is_not_said_to_be_constant(tmp_path):
    facts = check(write(make_frame(feature_z=10**12), tmp_path, "parquet"))
    (problem,) = facts.problems
    assert (problem.column, problem.refused) == ("feature_z", True)


def test_a_row_without_a_name_is_said_once(tmp_path):
    (problem,) = (
        problem
        for problem in check(write(make_frame(id=["", "", *list("cdea")]), tmp_path, "arrow")).problems
        if problem.refused
    )
    assert problem.what == "has a row without a name in era '0001'"
