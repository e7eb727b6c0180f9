"""Shards behind URLs: fsspec's memory and local file systems, through Arrow."""

import uuid

import fsspec
import pytest

from alignray.data import open_shards, write_shards
from alignray.data.datasets import synthetic
from alignray.data.shards import folders, read_manifest
from alignray.errors import DataError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "alignray" / "shards"


@pytest.fixture(params=["memory", "fsspec+file"])
def url(request, tmp_path):
    if request.param == "memory":
        yield f"memory://{uuid.uuid4().hex}/panel"
        fsspec.filesystem("memory").store.clear()
    else:
        yield f"fsspec+file://{tmp_path}/bucket/panel"


@pytest.fixture
def panel():
    return synthetic(num_eras=5, rows=30, num_features=4, seed=0)


def files(url):
    system, path = fsspec.core.url_to_fs(url.removeprefix("fsspec+"))
    return system, {name.rsplit("/", 1)[1]: name for name in system.ls(path, detail=False)} if system.exists(
        path
    ) else {}


def overwrite(url, name, change):
    system, names = files(url)
    system.pipe_file(names[name], change(system.cat_file(names[name])))


def refused(url, words, **arguments):
    with pytest.raises(DataError, match=words) as caught:
        open_shards(url, **arguments)
    assert "\n" not in str(caught.value)


def test_shards_come_back_from_elsewhere(panel, url, tmp_path):
    assert write_shards(panel, url, eras_per_shard=2) == url
    local = write_shards(panel, tmp_path / "local", eras_per_shard=2)
    assert sorted(files(url)[1]) == sorted(path.name for path in local.iterdir())
    assert read_manifest(url) == read_manifest(local)
    opened = open_shards(url)
    assert opened.digest == panel.digest
    assert opened.cut(0, 5).digest == panel.digest
    assert not opened.shards[0].features.flags.owndata


def test_shards_are_fetched_once(panel, url, cache, monkeypatch):
    write_shards(panel, url, eras_per_shard=2)
    fetched = []
    opening = folders.RemoteFolder.open

    def noted(self, file):
        fetched.append(file)
        return opening(self, file)

    monkeypatch.setattr(folders.RemoteFolder, "open", noted)
    open_shards(url)
    assert fetched == ["manifest.json", *(f"shard-{number:05d}.arrow" for number in range(3))]
    fetched.clear()
    (folder,) = cache.iterdir()
    (folder / "shard-00001.arrow").unlink()
    (folder / ".shard-00001.arrow.12345.partial").touch()  # what a killed process left
    open_shards(url)
    assert fetched == ["manifest.json", "shard-00001.arrow"]
    assert not list(folder.glob("*.partial"))


def test_another_panel_at_the_same_url_is_fetched_anew(panel, url):
    write_shards(panel, url, eras_per_shard=2)
    open_shards(url)
    system, names = files(url)
    system.rm(names["manifest.json"])
    other = synthetic(num_eras=4, rows=30, num_features=4, seed=1)
    write_shards(other, url, eras_per_shard=3)
    assert len(files(url)[1]) == 3  # no file of the first is left
    assert open_shards(url).cut(0, 4).digest == other.digest


def test_what_is_wrong_elsewhere_is_named_there(panel, url, cache):
    refused(url, r"panel/manifest\.json: missing")
    write_shards(panel, url, eras_per_shard=2)
    with pytest.raises(DataError, match="holds the shards of a panel already"):
        write_shards(panel, url, eras_per_shard=2)
    overwrite(url, "shard-00001.arrow", lambda content: content[:-1])
    refused(url, r"://.*shard-00001\.arrow: altered, cut short", verify=False)
    assert sorted(path.name for path in next(cache.iterdir()).iterdir()) == ["shard-00000.arrow"]
    system, names = files(url)
    system.rm(names["shard-00001.arrow"])
    refused(url, r"://.*shard-00001\.arrow: cannot be fetched")
    overwrite(url, "manifest.json", lambda content: content.replace(b"0002", b"0003"))
    refused(url, r"://.*manifest\.json: altered")


def test_a_write_that_fails_elsewhere_leaves_nothing(panel, url):
    class Stream:
        schema = panel.schema

        @property
        def shards(self):
            yield panel.cut(0, 2).shards[0]
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(Stream(), url, eras_per_shard=1)
    assert files(url)[1] == {}


def test_a_file_url_is_a_path(panel, tmp_path):
    assert write_shards(panel, f"file://{tmp_path}/panel", eras_per_shard=2) == tmp_path / "panel"
    assert open_shards(f"file://{tmp_path}/panel").digest == panel.digest
    assert not list(tmp_path.glob("cache/**/*.arrow"))


def test_an_unknown_file_system_is_named(panel):
    with pytest.raises(DataError, match=r"nosuch://bucket/panel: its file system cannot be used .*nosuch"):
        open_shards("nosuch://bucket/panel")
    with pytest.raises(DataError, match=r"nosuch://bucket/panel: its file system cannot be used .*nosuch"):
        write_shards(panel, "nosuch://bucket/panel", eras_per_shard=2)
