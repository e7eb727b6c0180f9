"""Downloading from a server on this machine that answers as Numerai's do: whole, cut short, resumed, changed."""

import json
import re
import sys
import threading
import urllib.request
from hashlib import md5
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from alignray.cli.main import status
from alignray.data.datasets import download_numerai, numerai, numerai_download, write_numerai_layout
from alignray.data.datasets.numerai_download import fetch
from alignray.data.shards.folders import LocalFolder
from alignray.errors import DataError, WorkError


class Server(ThreadingHTTPServer):
    """Numerai's two queries, and the files themselves."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files = {}
        self.cut_after = None
        """Bytes after which a file's connection breaks, or None."""
        self.knows_ranges = self.tags = True
        self.requests = []
        """The names of the files that were asked for, with the first byte that was sent and the bytes sent."""

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = (asked["variables"] or {}).get("filename")
        found = {"listDatasets": list(self.server.files)} if name is None else {"dataset": f"{self.server.url}/{name}"}
        body = json.dumps({"data": found}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        name = self.path.removeprefix("/")
        content = self.server.files[name]
        tag = f'"{md5(content).hexdigest()}"'
        first = 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and self.server.knows_ranges and self.headers.get("If-Range") == tag:
            first = int(asked[1])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - first))
        if self.server.tags:
            self.send_header("ETag", tag)
        self.end_headers()
        sent = content[first:][: self.server.cut_after]
        self.server.requests.append((name, first, len(sent)))
        self.wfile.write(sent)


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


class StandIn:
    """What is used of numerapi, speaking to the server of the test."""

    def __init__(self, url):
        self.url = url

    def raw_query(self, query, variables=None):
        body = json.dumps({"query": query, "variables": variables}).encode()
        with urllib.request.urlopen(urllib.request.Request(self.url, body)) as answer:
            return json.load(answer)

    def list_datasets(self):
        return self.raw_query("query { listDatasets }")["data"]["listDatasets"]


@pytest.fixture(params=["a stand-in for numerapi", "numerapi"])
def at_numerai(request, server, tmp_path_factory, monkeypatch):
    """The server offers two versions of the data, and numerapi, or what stands in for it, asks it."""
    folder = write_numerai_layout(tmp_path_factory.mktemp("made"), num_eras=6, rows=20, num_features=6, seed=0)
    for path in folder.iterdir():
        server.files[f"v5.10/{path.name}"] = path.read_bytes()
        server.files[f"v5.9/{path.name}"] = path.read_bytes() + b"older"
    server.files |= {
        "v5.10/meta_model.parquet": b"meta",
        "v4/train.csv": b"old",
        "v5.10/../evil": b"no",
        "loose": b"no",
    }
    if request.param == "numerapi":
        pytest.importorskip("numerapi")
        monkeypatch.setattr("numerapi.base_api.API_TOURNAMENT_URL", server.url)
    else:
        monkeypatch.setattr(numerai_download, "_api", lambda: StandIn(server.url))
    return folder


def unwatched(name, done, total):
    pass


def test_the_newest_version_comes_whole_and_is_read(at_numerai, server, tmp_path):
    seen = []
    paths = download_numerai(tmp_path / "here", on_bytes=lambda *progress: seen.append(progress))
    assert [path.name for path in paths] == ["features.json", "train.parquet", "validation.parquet", "live.parquet"]
    assert sorted(path.name for path in (tmp_path / "here").iterdir()) == sorted(path.name for path in paths)
    for path in paths:
        assert path.read_bytes() == server.files[f"v5.10/{path.name}"]
        assert (path.name, path.stat().st_size, path.stat().st_size) in seen
    assert numerai(tmp_path / "here").digest == numerai(at_numerai).digest


def test_a_version_is_chosen_and_everything_is_more(at_numerai, server, tmp_path):
    download_numerai(tmp_path, version="v5.9")
    assert (tmp_path / "features.json").read_bytes() == server.files["v5.9/features.json"]
    everything = download_numerai(tmp_path, everything=True)
    assert everything[-1].name == "meta_model.parquet"
    assert (tmp_path / "features.json").read_bytes() == server.files["v5.10/features.json"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize(
    ("version", "words"),
    [
        ("v6", "Numerai offers no 'v6'; expected one of v4, v5.9, v5.10"),
        ("v4", r"Numerai's v4 has no features\.json; choose another of v4, v5.9, v5.10"),
    ],
)
def test_a_version_that_is_none_is_named(at_numerai, tmp_path, version, words):
    with pytest.raises(DataError, match=words):
        download_numerai(tmp_path / "none", version=version)
    assert not (tmp_path / "none").exists()


def test_the_command_says_what_it_downloaded(at_numerai, server, tmp_path, capsys):
    assert status(["data", "numerai", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'features.json'}  {len(server.files['v5.10/features.json'])} bytes"
    assert len(lines) == 4


def test_a_server_that_does_not_answer_is_one_line_and_status_1(at_numerai, server, tmp_path, capsys):
    server.shutdown()
    server.server_close()
    assert status(["data", "numerai", str(tmp_path / "none")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "Numerai does not answer" in line
    assert "check the network" in line
    assert not (tmp_path / "none").exists()


def test_without_numerapi_the_command_says_how_to_install_it(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "numerapi", None)
    assert status(["data", "numerai", str(tmp_path)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "pip install 'alignray[numerai]'" in line


def test_a_folder_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="file: a file; expected a folder"):
        download_numerai(tmp_path / "file")


def test_a_folder_that_another_process_downloads_to_is_left_to_it(at_numerai, tmp_path):
    with (
        LocalFolder(tmp_path / "here").writing(),
        pytest.raises(DataError, match="another process writes here; wait for it, or choose another"),
    ):
        download_numerai(tmp_path / "here")
    assert not (tmp_path / "here").exists()


def test_a_folder_that_cannot_be_made_is_named(at_numerai, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"file/here: the folder cannot be made \(Not a directory\)"):
        download_numerai(tmp_path / "file" / "here")


def test_what_was_cut_short_goes_on_where_it_stopped(server, tmp_path):
    server.files["data"] = bytes(range(256)) * 20
    server.cut_after = 2000
    path = tmp_path / "data"
    for first in (0, 2000):
        with pytest.raises(WorkError, match=rf"data: cut short at {first + 2000} of 5120 bytes; run the same again"):
            fetch(f"{server.url}/data", path, unwatched)
        assert not path.exists()
    fetch(f"{server.url}/data", path, unwatched)
    assert path.read_bytes() == server.files["data"]
    assert list(tmp_path.iterdir()) == [path]
    resumed = [first for name, first, sent in server.requests if first]
    assert resumed == [2000, 4000]


def test_what_is_there_is_not_downloaded_again_unless_its_size_has_changed(server, tmp_path):
    path = tmp_path / "data"
    server.files["data"] = b"first"
    fetch(f"{server.url}/data", path, unwatched)
    written = path.stat().st_mtime_ns
    fetch(f"{server.url}/data", path, unwatched)
    assert path.stat().st_mtime_ns == written
    server.files["data"] = b"longer"
    fetch(f"{server.url}/data", path, unwatched)
    assert path.read_bytes() == b"longer"


def test_a_part_of_another_file_is_not_gone_on_with(server, tmp_path):
    """Numerai's live data change each day: half of yesterday's and half of today's would have the right size."""
    server.files["data"], server.cut_after = b"a" * 5000, 2000
    with pytest.raises(WorkError):
        fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    server.files["data"], server.cut_after = b"b" * 5000, None
    fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    assert (tmp_path / "data").read_bytes() == b"b" * 5000
    assert list(tmp_path.iterdir()) == [tmp_path / "data"]


def test_a_server_that_knows_no_ranges_sends_it_all_again(server, tmp_path):
    server.files["data"], server.cut_after, server.knows_ranges = b"abcd" * 1000, 1999, False
    with pytest.raises(WorkError):
        fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    server.cut_after = None
    fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    assert (tmp_path / "data").read_bytes() == b"abcd" * 1000


def test_a_part_that_has_all_the_bytes_only_takes_its_name(server, tmp_path):
    """The process may have ended between the last byte and the renaming."""
    server.files["data"], server.cut_after = b"abcd" * 1000, 3000
    with pytest.raises(WorkError):
        fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    (partial,) = tmp_path.iterdir()
    partial.write_bytes(server.files["data"])
    fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    assert (tmp_path / "data").read_bytes() == server.files["data"]


def test_a_file_without_a_tag_is_begun_again(server, tmp_path):
    """Another file of the same size could not be told from it."""
    server.files["data"], server.cut_after, server.tags = b"a" * 4000, 2000, False
    with pytest.raises(WorkError):
        fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    server.files["data"], server.cut_after = b"b" * 4000, None
    fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    assert (tmp_path / "data").read_bytes() == b"b" * 4000


def test_a_part_with_bytes_to_spare_is_begun_again(server, tmp_path):
    server.files["data"], server.cut_after = b"abcd" * 1000, 3000
    with pytest.raises(WorkError):
        fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    (partial,) = tmp_path.iterdir()
    partial.write_bytes(b"x" * 5000)
    server.cut_after = None
    fetch(f"{server.url}/data", tmp_path / "data", unwatched)
    assert (tmp_path / "data").read_bytes() == server.files["data"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/data", "nonsense"])
def test_an_address_that_does_not_answer_is_named(url, tmp_path):
    with pytest.raises(WorkError, match=r"data: cannot be downloaded .* run the same again"):
        fetch(url, tmp_path / "data", unwatched)
    assert list(tmp_path.iterdir()) == []
