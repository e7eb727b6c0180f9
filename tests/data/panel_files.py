"""Frames written as files of each kind, and what a panel of them must hold, computed by pandas alone."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from hypothesis import strategies as st

from alignray.data import Panel


def _arrow(frame: pd.DataFrame, path: Path) -> None:
    table = pa.Table.from_pandas(frame, preserve_index=False)
    with pa.ipc.new_file(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)


WRITERS: dict[str, Callable[[pd.DataFrame, Path], None]] = {
    "parquet": lambda frame, path: frame.to_parquet(path, row_group_size=4),
    "arrow": _arrow,
    "csv": lambda frame, path: frame.to_csv(path, index=False),
}
LOADERS = {"parquet": Panel.from_parquet, "arrow": Panel.from_arrow, "csv": Panel.from_csv}


def make_frame(**columns: object) -> pd.DataFrame:
    """Two eras of three rows, with two coded features."""
    frame = pd.DataFrame(
        {
            "era": ["0001"] * 3 + ["0002"] * 3,
            "id": list("abcabc"),
            "target": [0.0, 0.5, 1.0, 0.25, np.nan, 0.75],
            "feature_x": np.array([0, 1, 2, 3, 4, 0], np.int8),
            "feature_y": np.array([4, 3, 2, 1, 0, 4], np.int8),
        }
    )
    return frame.assign(**columns)


def write(frame: pd.DataFrame, folder: Path, kind: str) -> Path:
    """The frame as ``panel.parquet``, ``panel.arrow`` or ``panel.csv``."""
    path = folder / f"panel.{kind}"
    WRITERS[kind](frame, path)
    return path


_ERAS = {
    "int": lambda era: era,
    "text": lambda era: f"{era:03d}",
    "date": lambda era: datetime.date(2020, 1, 1) + datetime.timedelta(days=era),
    "time": lambda era: pd.Timestamp("2020-01-01 16:00") + pd.Timedelta(days=era),
}


@st.composite
def frames(draw, in_order=None):
    """A frame of ragged eras, of codes or of floats with ties, some of them and some targets missing."""
    lengths = draw(st.lists(st.integers(1, 6), min_size=1, max_size=5))
    coded, d = draw(st.booleans()), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    N = sum(lengths)
    label = _ERAS[draw(st.sampled_from(sorted(_ERAS)))]
    frame = pd.DataFrame({"era": [label(era) for era in np.repeat(np.arange(7, 7 + len(lengths)), lengths).tolist()]})
    frame["id"] = [f"n{row}" for row in range(N)]
    frame["target"] = np.where(rng.random(N) < 0.3, np.nan, rng.standard_normal(N))
    for column in range(d):
        values = rng.integers(0, 5, N) if coded else rng.choice(rng.standard_normal(4), N)
        values = pd.Series(values, dtype="Int8" if coded else "float64")
        frame[f"feature_{column}"] = values.mask(rng.random(N) < draw(st.sampled_from([0.0, 0.3])))
    if not (draw(st.booleans()) if in_order is None else in_order):
        frame = frame.iloc[rng.permutation(N)].reset_index(drop=True)
    return frame


def expected(frame: pd.DataFrame, bins: int | None) -> pd.DataFrame:
    """The rows sorted by era, their features as codes, or as float32 numbers where nothing bins them."""
    frame = frame.sort_values("era", kind="stable", ignore_index=True)
    for column in frame.filter(like="feature_"):
        values = frame[column]
        if pd.api.types.is_integer_dtype(values):
            frame[column] = values.fillna((bins or 5) // 2).astype("int8")
        elif bins is not None:
            groups = values.astype("float32").groupby(frame["era"])
            codes = (2 * groups.rank() - 1) * bins // (2 * groups.transform("count"))
            frame[column] = codes.fillna(bins // 2).astype("int8")
        else:
            frame[column] = values.astype("float32")
    return frame.assign(target=frame["target"].astype("float32"))


def assert_holds(panel: Panel, frame: pd.DataFrame) -> None:
    """The panel holds the rows that ``expected`` returned."""
    groups = frame.groupby("era", sort=True)
    labels = [label.isoformat() if hasattr(label, "isoformat") else str(label) for label in groups.groups]
    assert panel.eras == tuple(label.removesuffix("T00:00:00") for label in labels)
    assert [n for shard in panel.shards for n in np.diff(shard.offsets)] == groups.size().tolist()
    features = frame.filter(like="feature_").to_numpy()
    np.testing.assert_array_equal(np.concatenate([shard.features for shard in panel.shards]), features, strict=True)
    target = frame["target"].to_numpy()
    np.testing.assert_array_equal(np.concatenate([shard.target for shard in panel.shards]), target, strict=True)
    assert [name for shard in panel.shards for name in shard.ids] == frame["id"].tolist()
