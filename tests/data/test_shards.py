import hashlib
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alignray.data import Panel, Schema, Shard, open_shards, regroup, write_shards
from alignray.data.datasets import synthetic
from alignray.data.shards import read_manifest
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


def stream(panel, eras_at_a_time=1):
    """The panel as something that is read era by era, once."""
    return SimpleNamespace(schema=panel.schema, shards=iter(regroup(panel, eras_at_a_time).shards))


@given(panels(), st.integers(1, 17), st.integers(1, 17))
def test_a_stream_is_written_as_the_whole_panel_is(panel, eras_at_a_time, eras_per_shard):
    with tempfile.TemporaryDirectory() as folder:
        whole = write_shards(panel, Path(folder) / "whole", eras_per_shard=eras_per_shard)
        streamed = write_shards(stream(panel, eras_at_a_time), Path(folder) / "streamed", eras_per_shard=eras_per_shard)
        assert read_manifest(streamed).digest == panel.digest
        # But for the width of the names, which may differ from shard to shard, the very same files.
        if panel.schema.id is None:
            assert read_manifest(streamed) == read_manifest(whole)
        assert_same(panel, open_shards(streamed))


def test_of_a_stream_only_a_few_groups_are_in_memory(tmp_path):
    rows, eras = 1000, 60
    names = tuple(f"f{i}" for i in range(200))

    def shards():
        for era in range(eras):
            X = np.full((rows, len(names)), era % 5, np.int8)
            y = np.zeros(rows, np.float32)
            offsets = np.array([0, rows])
            yield Shard(eras=(f"{era:02d}",), offsets=offsets, features=X, factors=None, target=y, ids=None)

    schema = Schema(era="era", target="y", id=None, features=names, factors=names, bins=5)
    tracemalloc.start()
    write_shards(SimpleNamespace(schema=schema, shards=shards()), tmp_path, eras_per_shard=4)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    group = 4 * rows * (len(names) + 4)
    assert peak < 3.5 * group < eras * rows * len(names) / 3


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


def edit_manifest(folder, old, new):
    path = folder / "manifest.json"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def test_opened_arrays_lie_in_the_file(folder):
    before = pa.total_allocated_bytes()
    opened = open_shards(folder)
    assert pa.total_allocated_bytes() - before < 1000  # Arrow itself holds no numbers
    for shard in opened.shards:
        for array in (shard.features, shard.target, shard.ids):
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
    assert [name.decode("utf-32-le").rstrip("\0") for name in table["id"].to_pylist()] == shard.ids.tolist()


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


@pytest.mark.parametrize("new", [True, False])
def test_a_write_that_fails_leaves_nothing(panel, tmp_path, new):
    folder = tmp_path / "new" / "shards"
    if not new:
        folder.mkdir(parents=True)
        (folder / "notes.txt").touch()
    before = sorted(tmp_path.rglob("*"))

    def fails():
        yield from regroup(panel, 2).shards[:2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(SimpleNamespace(schema=panel.schema, shards=fails()), folder, eras_per_shard=1)
    assert sorted(tmp_path.rglob("*")) == before
    assert open_shards(write_shards(panel, folder, eras_per_shard=3)).digest == panel.digest


def test_a_full_disk_is_one_line_that_names_the_file(panel, tmp_path):
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    sizes = [entry.bytes for entry in read_manifest(write_shards(panel, tmp_path / "a", eras_per_shard=2)).entries]
    resource.setrlimit(resource.RLIMIT_FSIZE, (sizes[0] - 1, unlimited[1]))  # as near as a test can come to a full disk
    try:
        with pytest.raises(
            DataError, match=r"shard-00000\.arrow: cannot be written \(.+\); see to its free space"
        ) as caught:
            write_shards(panel, tmp_path / "b", eras_per_shard=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "b").exists()


def test_two_writers_do_not_mix(panel, tmp_path):
    def meanwhile():
        yield panel.shards[0]
        write_shards(panel, tmp_path, eras_per_shard=1)

    with pytest.raises(DataError, match="another process writes here"):
        write_shards(SimpleNamespace(schema=panel.schema, shards=meanwhile()), tmp_path, eras_per_shard=1)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from alignray.data import write_shards
from alignray.data.datasets import synthetic
from alignray.data.shards import read_manifest

panel = synthetic(num_eras=5, rows=30, num_features=4, seed=0)
for number in range(4):
    if not (child := os.fork()):
        files = iter([None] * number)
        os.fsync = lambda descriptor: next(files, os.kill) and os.kill(os.getpid(), signal.SIGKILL)
        write_shards(panel, Path(sys.argv[1]) / str(number), eras_per_shard=2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
"""


def test_a_killed_write_is_no_panel_and_can_be_repeated(panel, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", KILLED, tmp_path], check=True, env=environment)
    for number in range(4):
        folder = tmp_path / str(number)
        left = [path.name for path in folder.iterdir()]
        assert len(left) == number + 1
        assert sum(name.endswith(".partial") for name in left) == 1
        refused(folder, r"manifest\.json: missing")
        (folder / "notes.txt").touch()
        write_shards(panel, folder, eras_per_shard=4)
        assert sorted(path.name for path in folder.iterdir()) == [
            "manifest.json",
            "notes.txt",
            "shard-00000.arrow",
            "shard-00001.arrow",
        ]
        assert open_shards(folder).digest == panel.digest


@pytest.mark.parametrize(
    ("shards", "words"),
    [
        (lambda panel: [], "at least one era, got none"),
        (lambda panel: panel.shards * 2, "two eras '0001'"),
        (lambda panel: [replace(panel.shards[0], ids=None)], "ids are absent, but the schema needs them present"),
    ],
)
def test_a_stream_that_is_no_panel_is_refused(panel, tmp_path, shards, words):
    with pytest.raises(DataError, match=words):
        write_shards(SimpleNamespace(schema=panel.schema, shards=shards(panel)), tmp_path, eras_per_shard=2)
    assert list(tmp_path.iterdir()) == []


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
    refused(folder, r"shard-00000\.arrow: not the shard that the manifest lists", verify=False)


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("3", "format version 3 is newer than this alignray, which reads 2; upgrade alignray"),
        ("1", "format version 1 is no longer read, only 2 is; write the shards again"),
        ("null", "states no version"),
    ],
)
def test_a_manifest_of_another_version_is_named(folder, version, words):
    edit_manifest(folder, '"version": 2', f'"version": {version}')
    refused(folder, rf"manifest\.json: {words}")


@pytest.mark.parametrize(
    ("text", "words"),
    [("{", "not JSON"), ("[]", "not a manifest of shards"), ('{"format": "other"}', "not a manifest of shards")],
)
def test_a_manifest_that_is_none_is_named(folder, text, words):
    (folder / "manifest.json").write_text(text)
    refused(folder, rf"manifest\.json: {words}")


@pytest.mark.parametrize(
    ("old", "new"),
    [('"target": "target"', '"target": "other"'), ('"version": 2', '"version":  2'), ('"sha256": "', '"sha256": "0')],
)
def test_an_altered_manifest_is_named_before_any_data_are_read(folder, old, new):
    for path in folder.glob("shard-*"):
        path.unlink()
    edit_manifest(folder, old, new)
    refused(folder, r"manifest\.json: altered since it was written", verify=False)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ('"digest"', '"digits"', "lacks what it needs .*digest"),
        ("shard-00001.arrow", "../../.profile", "lacks what it needs .*'../../.profile' is no shard's name"),
    ],
)
def test_a_manifest_that_vouches_for_nonsense_is_named(folder, old, new, words):
    edit_manifest(folder, old, new)
    path = folder / "manifest.json"
    text = path.read_text()
    stated = json.loads(text)["sha256"]
    blank = text.replace(stated, "0" * 64, 1)
    path.write_text(blank.replace("0" * 64, hashlib.sha256(blank.encode()).hexdigest(), 1))
    refused(folder, rf"manifest\.json: {words}")


@given(data=st.data())
@settings(max_examples=40)
def test_a_flipped_bit_anywhere_is_found(data):
    panel = synthetic(num_eras=3, rows=6, num_features=2, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        write_shards(panel, folder, eras_per_shard=2)
        path = data.draw(st.sampled_from(sorted(Path(folder).iterdir())), "file")
        content = bytearray(path.read_bytes())
        place = data.draw(st.integers(0, len(content) - 1), "byte")
        content[place] ^= 1 << data.draw(st.integers(0, 7), "bit")
        path.write_bytes(content)
        refused(folder, re.escape(str(path)))
