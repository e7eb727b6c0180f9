"""Shards are read once a machine, and again when a file has changed."""

import json
import os
import shutil
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from alignray.data import open_shards, write_shards
from alignray.data.datasets import synthetic
from alignray.data.shards import verifying
from alignray.errors import DataError

STAMP = ".verified.json"
NOBODY = 65534


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignray"


@pytest.fixture
def folder(tmp_path):
    panel = synthetic(num_eras=5, rows=30, num_features=4, seed=0)
    folder = write_shards(panel, tmp_path / "shards", eras_per_shard=2)
    time.sleep(0.02)  # a file that changed within this tick of the clock is not vouched for
    return folder


@pytest.fixture
def read(monkeypatch):
    """The names of the files that were read to the end."""
    names = []
    sha256 = verifying._sha256

    def noted(path):
        names.append(path.name)
        return sha256(path)

    monkeypatch.setattr(verifying, "_sha256", noted)
    return names


ALL = [f"shard-{number:05d}.arrow" for number in range(3)]


def flip(path):
    """Alter a file and leave its size and the time of its last change."""
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_the_second_opening_reads_nothing(folder, read):
    panel = synthetic(num_eras=5, rows=30, num_features=4, seed=0)
    assert open_shards(folder).digest == panel.digest
    assert sorted(read) == ALL
    read.clear()
    opened = open_shards(folder)
    assert read == []
    assert opened.digest == panel.digest
    np.testing.assert_array_equal(opened.batch([3]).features, panel.batch([3]).features)


def test_unverified_shards_leave_no_stamp_and_their_digest_is_their_content(folder, read):
    flip(folder / ALL[1])
    opened = open_shards(folder, verify=False)
    assert read == []
    assert not (folder / STAMP).exists()
    assert opened.digest != json.loads((folder / "manifest.json").read_text())["digest"]


def test_a_file_that_was_altered_since_is_found(folder, read):
    open_shards(folder)
    flip(folder / ALL[1])
    read.clear()
    with pytest.raises(DataError, match=r"shard-00001\.arrow: altered"):
        open_shards(folder)
    assert read == [ALL[1]]


def test_a_file_that_was_only_touched_is_read_once_more(folder, read):
    open_shards(folder)
    (folder / ALL[2]).touch()
    time.sleep(0.02)
    read.clear()
    open_shards(folder)
    open_shards(folder)
    assert read == [ALL[2]]


def test_a_file_that_changed_this_very_moment_is_not_vouched_for(folder, monkeypatch):
    stat = (folder / ALL[0]).stat()  # as if the clock had stood still since the file was written
    monkeypatch.setattr(verifying, "_place_and_time", lambda places: (places[0], stat.st_ctime_ns))
    open_shards(folder)
    assert ALL[0] not in json.loads((folder / STAMP).read_text())["files"]


def test_a_copy_is_read_again(folder, read, tmp_path):
    open_shards(folder)
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    assert (copy / STAMP).exists()
    read.clear()
    open_shards(copy)
    assert sorted(read) == ALL


@pytest.mark.parametrize("stamp", ["", "{", "[]", "null", '{"manifest": 1}', '{"files": []}'])
def test_a_stamp_that_is_none_vouches_for_nothing(folder, read, stamp):
    open_shards(folder)
    (folder / STAMP).write_text(stamp)
    read.clear()
    open_shards(folder)
    assert sorted(read) == ALL


def test_the_stamp_of_another_panel_vouches_for_nothing(folder, read, tmp_path):
    open_shards(folder)
    (folder / "manifest.json").unlink()
    write_shards(synthetic(num_eras=5, rows=30, num_features=4, seed=1), folder, eras_per_shard=2)
    read.clear()
    open_shards(folder)
    assert sorted(read) == ALL


@contextmanager
def without_privileges():
    """As a user whom file modes bind; root is not."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def test_a_read_only_folder_is_remembered_in_the_cache(folder, read, monkeypatch):
    with tempfile.TemporaryDirectory() as home:
        Path(home).chmod(0o755)
        shards = Path(home) / "shards"
        shutil.copytree(folder, shards)
        shards.chmod(0o555)
        writable = Path(home) / "cache"
        writable.mkdir()
        writable.chmod(0o777)
        time.sleep(0.02)
        with without_privileges():
            monkeypatch.setenv("XDG_CACHE_HOME", str(writable))
            open_shards(shards)
            assert sorted(read) == ALL
            read.clear()
            open_shards(shards)
            assert read == []
            assert not (shards / STAMP).exists()
            monkeypatch.setenv("XDG_CACHE_HOME", str(shards))  # nowhere to remember it: read, and opened all the same
            assert open_shards(shards).num_eras == 5
            assert sorted(read) == ALL
        assert len(list((writable / "alignray" / "verified").iterdir())) == 1
        shards.chmod(0o755)
