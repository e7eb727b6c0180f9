import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.data import Panel, Schema, Shard, open_shards, regroup, write_shards
from alignray.data.datasets import synthetic
from alignray.errors import DataError, InvalidArgumentError

ARRAYS = ("features", "factors", "target", "ids")


@st.composite
def panels(draw):
    """A panel of one to four shards, with every way to store features, factors and ids."""
    groups = draw(st.lists(st.lists(st.integers(1, 4), min_size=1, max_size=4), min_size=1, max_size=4))
    coded, apart, named = draw(st.booleans()), draw(st.booleans()), draw(st.booleans())
    d = draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    names = tuple(f"f{i}" for i in range(d))
    schema = Schema(
        era="date",
        target="y",
        id="name" if named else None,
        features=names,
        factors=("beta", "size") if apart else names[:1],
        bins=5 if coded else None,
    )

    def shard(number, lengths):
        N = sum(lengths)
        X = rng.integers(0, 5, (N, d), dtype=np.int8) if coded else rng.standard_normal((N, d), dtype=np.float32)
        return Shard(
            eras=tuple(f"é{number}/{era}" for era in range(len(lengths))),
            offsets=np.concatenate([[0], np.cumsum(lengths)]),
            features=X,
            factors=rng.standard_normal((N, 2), dtype=np.float32) if apart else None,
            target=np.where(rng.random(N) < 0.3, np.nan, rng.random(N)).astype(np.float32),
            ids=np.array([f"{'ñ' * number}{row}" for row in range(N)]) if named else None,
        )

    return Panel(schema, tuple(shard(number, lengths) for number, lengths in enumerate(groups)))


def rows(panel, name):
    """One array of all the shards together."""
    arrays = [getattr(shard, name) for shard in panel.shards]
    return None if arrays[0] is None else np.concatenate(arrays)


def assert_same(panel, other):
    assert other.schema == panel.schema
    assert other.eras == panel.eras
    assert other.digest == panel.digest
    for name in ARRAYS:
        np.testing.assert_array_equal(rows(panel, name), rows(other, name), strict=name != "ids")


@given(panels(), st.integers(1, 17))
@settings(deadline=None)
def test_shards_come_back_as_they_were(panel, eras_per_shard):
    with tempfile.TemporaryDirectory() as folder:
        path = write_shards(panel, Path(folder) / "panel", eras_per_shard=eras_per_shard)
        opened = open_shards(path)
        assert_same(panel, opened)
        assert len(list(path.glob("shard-*.arrow"))) == len(opened.shards)
        assert {len(shard.eras) for shard in opened.shards[:-1]} <= {eras_per_shard}


@given(panels(), st.integers(1, 17))
@settings(deadline=None)
def test_regrouping_changes_nothing_but_the_groups(panel, eras_per_shard):
    grouped = regroup(panel, eras_per_shard)
    assert_same(panel, grouped)
    assert len(grouped.shards) == -(-panel.num_eras // eras_per_shard)


def test_regrouping_within_a_shard_copies_nothing():
    panel = synthetic(num_eras=5, rows=10, num_features=3, seed=0)
    grouped = regroup(panel, 2)
    assert [len(shard.eras) for shard in grouped.shards] == [2, 2, 1]
    for shard in grouped.shards:
        assert np.shares_memory(shard.features, panel.shards[0].features)
        assert shard.features.flags.c_contiguous


def test_shards_need_an_era_each():
    with pytest.raises(InvalidArgumentError, match="eras_per_shard must be at least 1, got 0"):
        regroup(synthetic(num_eras=1, rows=5, num_features=1, seed=0), 0)


@pytest.fixture
def panel():
    return synthetic(num_eras=5, rows=30, num_features=4, seed=0)


@pytest.fixture
def folder(panel, tmp_path):
    return write_shards(panel, tmp_path / "shards", eras_per_shard=2)


def refused(folder, words, **arguments):
    with pytest.raises(DataError, match=words) as caught:
        open_shards(folder, **arguments)
    assert "\n" not in str(caught.value)


def edit_manifest(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_opened_arrays_lie_in_the_file(folder):
    before = pa.total_allocated_bytes()
    opened = open_shards(folder)
    assert pa.total_allocated_bytes() - before < 1000  # Arrow itself holds no numbers
    for shard in opened.shards:
        for array in (shard.features, shard.target):
            assert not array.flags.owndata
            assert not array.flags.writeable


def test_a_shard_reads_without_alignray(panel, folder):
    with pa.memory_map(str(folder / "shard-00001.arrow")) as file:
        table = pa.ipc.open_file(file).read_all()
    shard = regroup(panel, 2).shards[1]
    assert table.column_names == ["era", "target", "features", "id"]
    assert table["era"].to_pylist() == [
        label for label, n in zip(shard.eras, np.diff(shard.offsets), strict=True) for _ in range(n)
    ]
    assert table["features"].to_pylist() == shard.features.tolist()
    assert table["id"].to_pylist() == shard.ids.tolist()


def test_writing_leaves_only_what_it_promises(folder):
    assert sorted(path.name for path in folder.iterdir()) == [
        "manifest.json",
        "shard-00000.arrow",
        "shard-00001.arrow",
        "shard-00002.arrow",
    ]


def test_a_folder_that_holds_a_panel_is_not_overwritten(panel, folder):
    with pytest.raises(DataError, match="holds the shards of a panel already"):
        write_shards(panel, folder, eras_per_shard=1)
    assert open_shards(folder).digest == panel.digest
    with pytest.raises(DataError, match="a file; expected a folder"):
        write_shards(panel, folder / "manifest.json", eras_per_shard=1)


def test_a_write_that_was_cut_short_is_no_panel_and_can_be_repeated(panel, tmp_path, monkeypatch):
    class DiskFullError(OSError):
        pass

    written = []

    def fail(path, target):
        if written:
            raise DiskFullError
        written.append(target)
        return replacing(path, target)

    replacing = Path.replace
    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DiskFullError):
        write_shards(panel, tmp_path, eras_per_shard=2)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir()] == ["shard-00000.arrow"]
    refused(tmp_path, r"manifest\.json: missing")
    assert open_shards(write_shards(panel, tmp_path, eras_per_shard=3)).digest == panel.digest


def test_a_missing_folder_is_named(tmp_path):
    refused(tmp_path / "nope", r"nope/manifest\.json: missing; expected a folder that write_shards")


def test_a_missing_shard_is_named(folder):
    (folder / "shard-00001.arrow").unlink()
    refused(folder, r"shard-00001\.arrow: missing, though the manifest lists it")


@pytest.mark.parametrize("verify", [True, False])
def test_a_truncated_shard_is_named(folder, verify):
    path = folder / "shard-00001.arrow"
    path.write_bytes(path.read_bytes()[:-100])
    refused(folder, r"shard-00001\.arrow: \d+ bytes, expected \d+: cut short", verify=verify)


def test_an_altered_shard_is_named(folder):
    path = folder / "shard-00002.arrow"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    refused(folder, r"shard-00002\.arrow: altered, or of another panel")


def test_a_shard_of_another_panel_is_named(folder, tmp_path):
    path = folder / "shard-00000.arrow"
    other = write_shards(synthetic(num_eras=5, rows=30, num_features=4, seed=1), tmp_path / "other", eras_per_shard=2)
    path.write_bytes((other / path.name).read_bytes())
    refused(folder, r"shard-00000\.arrow: .*of another panel")


def test_a_file_that_is_no_shard_is_named_even_unverified(folder):
    path = folder / "shard-00000.arrow"
    path.write_bytes(bytes(path.stat().st_size))
    refused(folder, r"shard-00000\.arrow: not a shard", verify=False)


def test_a_newer_manifest_is_named(folder):
    edit_manifest(folder, version=2)
    refused(folder, r"manifest\.json: format version 2, and this alignray reads 1; upgrade alignray")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("[]", "not a manifest of shards"), ('{"format": "other"}', "not a manifest of shards")],
)
def test_a_manifest_that_is_none_is_named(folder, text, words):
    (folder / "manifest.json").write_text(text)
    refused(folder, rf"manifest\.json: {words}")


def test_an_altered_manifest_is_named(panel, folder):
    edit_manifest(folder, schema={**json.loads((folder / "manifest.json").read_text())["schema"], "target": "other"})
    refused(folder, r"manifest\.json: altered since it was written")
    assert open_shards(folder, verify=False).schema == replace(panel.schema, target="other")
    edit_manifest(folder, schema={})
    refused(folder, r"manifest\.json: lacks a field")
