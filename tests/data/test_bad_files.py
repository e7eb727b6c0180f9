"""What cannot be a panel is one line that names the file, the column and the era; never another exception."""

import os
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from panel_files import LOADERS, WRITERS, assert_holds, expected, frames, make_frame, write

from alignray.data import open_stream
from alignray.errors import DataError

KINDS = sorted(WRITERS)
KIND = pytest.mark.parametrize("kind", KINDS)


def refused(path, words=": ", **arguments):
    """Loading and streaming refuse a file with the same line."""

    def stream():
        list(open_stream(path, **arguments).shards)

    for load in (lambda: LOADERS[path.suffix[1:]](path, **arguments), stream):
        with pytest.raises(DataError, match=words) as caught:
            load()
        assert str(caught.value).startswith(f"{path}: ")
        assert "\n" not in str(caught.value)


def loaded_or_refused(path, **arguments):
    """The panel, or None if one line that names the file says why there is none."""
    try:
        return LOADERS[path.suffix[1:]](path, **arguments)
    except DataError as error:
        words = str(error)
    assert words.startswith(f"{path}: ")
    assert "\n" not in words
    return None


@KIND
@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"feature_x": [0, 1, 2, 3, 5, 0]}, "column 'feature_x' holds 5 in era '0002', expected codes 0 to 4; bin it"),
        ({"feature_x": [0, 1, -1, 3, 4, 0]}, "column 'feature_x' holds -1 in era '0001', expected codes 0 to 4"),
        ({"feature_x": [0.5, 1, 2, np.inf, 4, 0]}, "column 'feature_x' holds inf in era '0002', expected finite"),
        ({"feature_x": [0.5, 1, np.nan, 3, 4, 0]}, "column 'feature_x' holds nan in era '0001', expected finite"),
        ({"feature_x": [0.5, 1, 1e300, 3, 4, 0]}, "column 'feature_x' holds inf in era '0001', expected finite"),
        ({"target": [0, 1, 2, 0, -np.inf, 1]}, "column 'target' holds -inf in era '0002', expected finite"),
        ({"feature_x": ["1", "2", "x", "4", "0", "1"]}, "column 'feature_x' is .*string, expected integers or floats"),
        ({"target": ["up", "down"] * 3}, "column 'target' is .*string, expected integers or floats"),
        ({"id": list("abcdbb")}, "column 'id' holds 'b' twice in era '0002'; drop one"),
        ({"id": ["a", "b", None, "a", "b", "c"]}, "column 'id' has a row without a name in era '0001'; name it, or"),
        ({"id": ["a", "b", "c", "a", "", ""]}, "column 'id' has a row without a name in era '0002'; name it, or"),
        ({"era": ["0001", None, "0001", "0002", "0002", "0002"]}, "column 'era' has no era in row 1; drop such rows"),
        ({"era": ["0001", "", "0001", "0002", "0002", "0002"]}, "column 'era' has no era in row 1; drop such rows"),
        ({"era": ["2020-9"] * 3 + ["2020-10"] * 3}, "column 'era' is text that sorts '2020-10' before '2020-9'; pad"),
        ({"era": ["9-2020-w"] * 3 + ["10-2020-w"] * 3}, "is text that sorts '10-2020-w' before '9-2020-w'; pad"),
        ({"era": ["era9"] * 3 + ["era10"] * 3}, "column 'era' is text that sorts 'era10' before 'era9'; pad the"),
        ({"era": ["31/12/2019"] * 3 + ["01/01/2020"] * 3}, "does not sort by time, such as '01/01/2020'; write dates"),
    ],
)  # fmt: skip
def test_values_that_cannot_be_used(kind, columns, words, tmp_path):
    refused(write(make_frame(**columns), tmp_path, kind), words)


@KIND
def test_an_infinite_feature_is_not_binned(kind, tmp_path):
    path = write(make_frame(feature_x=[0.5, 1, 2, np.inf, 4, 0]), tmp_path, kind)
    refused(path, "'feature_x' holds inf in era '0002', expected finite float32 numbers; fill it or drop", bins=5)


@KIND
@pytest.mark.parametrize("column", ["era", "target", "feature_x"])
def test_a_missing_column(kind, column, tmp_path):
    path = write(make_frame().drop(columns=column), tmp_path, kind)
    refused(path, f"{column!r}.*; pass .*'feature_y'", features=["feature_x", "feature_y"])


@KIND
def test_no_rows(kind, tmp_path):
    refused(write(make_frame().iloc[:0], tmp_path, kind), "no rows; expected at least one")


def test_a_doubled_column(tmp_path):
    table = pa.table([["1"], [0.5], [2], [3]], names=["era", "target", "feature_x", "feature_x"])
    pq.write_table(table, tmp_path / "panel.parquet")
    with pa.ipc.new_file(tmp_path / "panel.arrow", table.schema) as writer:
        writer.write_table(table)
    (tmp_path / "panel.csv").write_text("era,target,feature_x,feature_x\n1,0.5,2,3\n")
    for kind in KINDS:
        refused(tmp_path / f"panel.{kind}", "two columns are called 'feature_x'; rename or drop one")


@KIND
def test_files_that_are_not_there_or_are_folders(kind, tmp_path):
    refused(tmp_path / f"nope.{kind}", "no such file; expected an? ")
    (tmp_path / f"folder.{kind}").mkdir()
    refused(tmp_path / f"folder.{kind}", "a folder; expected an? .*a folder of shards is opened by open_shards")


@KIND
def test_a_pipe_is_refused_not_waited_for(kind, tmp_path):
    os.mkfifo(tmp_path / f"pipe.{kind}")
    refused(tmp_path / f"pipe.{kind}", "a pipe or a device; expected an? .* read more than once")


@KIND
def test_a_name_that_is_too_long(kind, tmp_path):
    refused(tmp_path / f"{'x' * 300}.{kind}", r"cannot be read \(File name too long\)")


@KIND
def test_a_file_that_may_not_be_read(kind, tmp_path, monkeypatch):
    def denied(path, mode):
        raise PermissionError(13, "Permission denied", str(path))

    path = write(make_frame(), tmp_path, kind)
    monkeypatch.setattr(Path, "open", denied)  # the tests may run as root, who may read everything
    refused(path, r"cannot be read \(Permission denied\)")


@KIND
@pytest.mark.parametrize("content", [b"", b"\0", b"\xff\xfe\0\n\xff", b"PAR1", b"ARROW1\0\0", b"a,b\n1\n"])
def test_files_of_another_kind(kind, content, tmp_path):
    (tmp_path / f"panel.{kind}").write_bytes(content)
    refused(tmp_path / f"panel.{kind}")


def test_rows_of_a_csv_file_that_do_not_fit_its_header(tmp_path):
    path = tmp_path / "panel.csv"
    path.write_text("era,target,feature_x\n1,0.5,2\n1,0.5\n")
    refused(path, r"not a CSV file, or cut short; write it again \(CSV parse error: .*Expected 3 columns, got 2")
    path.write_text("era;target;feature_x\n1;0.5;2\n")
    refused(path, r"no column 'era'; pass era= the right one of 'era;target;feature_x'")
    path.write_bytes("era,target,feature_x\nä,0.5,2\n".encode("latin-1"))
    refused(path, "not a CSV file, or cut short; .*UTF8")


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
@given(frame=frames(), cut=st.floats(0, 1, exclude_max=True))
def test_a_file_cut_anywhere_is_refused(kind, frame, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = write(frame, Path(folder), kind)
        os.truncate(path, int(cut * path.stat().st_size))
        refused(path, "cut short; write it again")


@given(frame=frames(in_order=True), cut=st.floats(0, 1, exclude_max=True))
def test_a_csv_file_cut_anywhere_is_refused_or_ends_earlier(frame, cut):
    with tempfile.TemporaryDirectory() as folder:
        path = write(frame, Path(folder), "csv")
        os.truncate(path, int(cut * path.stat().st_size))
        panel = loaded_or_refused(path, bins=5)
        assert panel is None or panel.num_rows <= len(frame)


def put(frame, column, value, row):
    """The frame with one value of a column replaced, whatever the column's type."""
    values = frame[column].astype(object)
    values.iloc[row] = value
    return frame.assign(**{column: values.infer_objects()})


FAULTS = {
    "no era column": lambda frame, row: frame.drop(columns="era"),
    "no target column": lambda frame, row: frame.drop(columns="target"),
    "no features": lambda frame, row: frame.drop(columns=list(frame.filter(like="feature_"))),
    "no rows": lambda frame, row: frame.iloc[:0],
    "text for a number": lambda frame, row: frame.assign(feature_0="text"),
    "text for a target": lambda frame, row: frame.assign(target="text"),
    "an infinite feature": lambda frame, row: frame.assign(feature_0=np.where(frame.index == row, np.inf, 0.5)),
    "an infinite target": lambda frame, row: frame.assign(target=np.where(frame.index == row, -np.inf, 0.5)),
    "a code out of range": lambda frame, row: frame.assign(feature_0=np.where(frame.index == row, 77, 0)),
    "a row without an era": lambda frame, row: put(frame, "era", None, row),
    "a row without a name": lambda frame, row: put(frame, "id", None, row),
    "a row twice": lambda frame, row: pd.concat([frame, frame.iloc[[row]]], ignore_index=True),
}


def is_codes(frame):
    return all(pd.api.types.is_integer_dtype(frame[column]) for column in frame.filter(like="feature_"))


@KIND
@given(frame=frames(), fault=st.sampled_from([None, *FAULTS]), row=st.integers(0, 29), bins=st.sampled_from([None, 5]))
def test_a_panel_as_pandas_has_it_or_one_line(kind, frame, fault, row, bins):
    if fault is not None:
        frame = FAULTS[fault](frame, row % len(frame))
    with tempfile.TemporaryDirectory() as folder:
        path = write(frame, Path(folder), kind)
        unusable = fault is not None
        if fault == "a code out of range":
            unusable = bins is not None or is_codes(frame)
        if not unusable and bins is None and not is_codes(frame):
            unusable = bool(frame.filter(like="feature_").isna().any(axis=None))
        panel = loaded_or_refused(path, bins=bins)
        assert (panel is None) == unusable
        if panel is not None:
            assert_holds(panel, expected(frame, bins))
