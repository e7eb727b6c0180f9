"""MLflow behind HTTP, with a password and without, on SQLite and on PostgreSQL."""

import os
import shutil
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from postgres import running_postgres, why_no_postgres
from servers import PASSWORD, MlflowServer
from stream import events, held, told, until

from alignray.errors import SweepError
from alignray.tracking import EXPERIMENT, RunNote, RunStart, Tracker, require_access
from alignray.tracking import tracker as tracker_module

needs_postgres = pytest.mark.skipif(why_no_postgres() is not None, reason=str(why_no_postgres()))


@pytest.fixture(scope="module")
def postgres():
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "authenticated", pytest.param("postgresql", marks=needs_postgres)])
def server(request, tmp_path_factory, blank_database):
    home = tmp_path_factory.mktemp("server")
    if request.param == "postgresql":
        database = request.getfixturevalue("postgres")
        store = database.url_with_password.replace("postgresql:", "postgresql+psycopg:")
    else:
        store = f"sqlite:///{shutil.copy(blank_database, home / 'mlflow.db')}"
    one = MlflowServer(home, store, authenticated=request.param == "authenticated")
    try:
        one.start()
        yield one
    finally:
        one.kill()


@pytest.fixture
def welcome(server, monkeypatch):
    """The server's address, and its password in the environment where it wants one."""
    if server.authenticated:
        monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
        monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    return server.uri


def written(tracker):
    until(lambda: tracker.backlog().size == 0)
    assert tracker.backlog().error == ""


def test_all_arrives_once_also_what_mlflow_would_cut_or_refuse(welcome, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.5)
    assert require_access(welcome) == ""
    given = events()
    long, note = "ü" * 10_000, tmp_path / "note.csv"
    note.write_text("a,b\n")
    odd = {
        "space.columns": long,
        "ünï cøde/π": "\ud800\0",
        "a//b": 1,
        "c;d": None,
        **{f"p{n}": long[:5_999] for n in range(99)},
    }
    given.insert(4, RunStart(key="mse-0", params=odd, tags={"too long": long}))
    given.insert(5, RunNote(key="mse-0", files=(str(note),)))
    tracker = Tracker(str(tmp_path / "spool"), welcome, f"id-{tmp_path}", limit_bytes=10**9)
    tracker.log(given)
    written(tracker)
    assert tracker.backlog().refused == 0, tracker.backlog().last_refusal
    assert held(welcome) == told(given)

    client = MlflowClient(welcome)
    run = client.get_run(tracker.run_ids()["mse-0"])
    for values, name, folder in ((run.data.params, "space.columns", "params"), (run.data.tags, "too long", "tags")):
        path = f"{folder}/{name.replace(' ', '_')}.txt"
        assert values[name] == f"{long[:200]}… (10,000 characters: artifact {path})"
        got = client.download_artifacts(run.info.run_id, path, str(tmp_path))
        assert Path(got).read_text(encoding="utf-8") == long
    assert run.data.params["ünï cøde/π"] == "\\ud800\\x00"
    assert {name[:3] for name in run.data.params} >= {"a/b", "c_d"}
    assert run.data.params["p98"] == long[:5_999]
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {"note.csv", "params", "tags"}


def test_a_wrong_password_is_told_before_the_sweep_begins_and_not_shown(server, monkeypatch):
    if not server.authenticated:
        pytest.skip("this server asks for no password")
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong-horse")
    with pytest.raises(SweepError, match=r"(?s)127\.0\.0\.1.*MLFLOW_TRACKING_PASSWORD") as caught:
        require_access(server.uri)
    assert "wrong-horse" not in str(caught.value)
    with pytest.raises(SweepError) as caught:
        require_access(server.uri.replace("//", "//admin:also-wrong@"))
    assert "also-wrong" not in str(caught.value)


@pytest.mark.parametrize("known", [None, ("admin", "wrong-horse"), ("admin", ""), ("nobody", PASSWORD)], ids=str)
@pytest.mark.parametrize(
    "path", ["/", "/api/2.0/mlflow/experiments/search", "/api/2.0/mlflow-artifacts/artifacts", "/graphql"]
)
def test_a_request_without_the_password_or_with_a_wrong_one_is_refused(server, known, path):
    if not server.authenticated:
        pytest.skip("this server asks for no password")
    for method in ("GET", "POST"):
        answer = requests.request(method, server.uri + path, auth=known, json={"max_results": 1}, timeout=60)
        assert answer.status_code in ((401, 405) if path == "/" or method == "POST" else (401,)), answer.text
        assert "experiment" not in answer.text


def test_a_user_who_may_only_read_is_told_so(server, welcome, monkeypatch):
    if not server.authenticated:
        pytest.skip("this server asks for no password")
    require_access(welcome)  # the experiment is the administrator's
    reader = {"username": "reader", "password": "reads-and-reads"}
    made = requests.post(f"{welcome}/api/2.0/mlflow/users/create", json=reader, auth=("admin", PASSWORD), timeout=60)
    assert made.ok, made.text
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "reader")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "reads-and-reads")
    with pytest.raises(SweepError, match=r"Permission denied|PERMISSION_DENIED"):
        require_access(welcome)


def test_a_run_deleted_meanwhile_holds_up_no_other(welcome, tmp_path, monkeypatch):
    monkeypatch.setattr(tracker_module, "_RETRY_S", 0.5)
    given = events(runs=2, steps=4)
    tracker = Tracker(str(tmp_path / "spool"), welcome, f"id-{tmp_path}", limit_bytes=10**9)
    tracker.log(given[:5])
    written(tracker)
    client, run_id = MlflowClient(welcome), tracker.run_ids()["mse-1"]
    client.delete_run(run_id)
    tracker.log(given[5:])
    written(tracker)
    assert tracker.backlog().refused == 3 + 1  # the steps that it had not yet, and its end
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    (left,) = [r for r in client.search_runs([experiment]) if r.info.run_id == tracker.run_ids()["mse-0"]]
    assert (left.info.status, left.data.metrics["val/metric_0"]) == ("FINISHED", 4 + len("mse-0"))
    assert len((tmp_path / "spool" / "refused.jsonl").read_text().splitlines()) == tracker.backlog().refused


@needs_postgres
def test_a_database_that_refuses_us_is_told_of_and_one_that_is_away_is_not(postgres):
    good = postgres.url_with_password.replace("postgresql:", "postgresql+psycopg:")
    assert require_access(good) == ""
    with pytest.raises(SweepError, match="password authentication failed") as caught:
        require_access(good.replace(postgres.password, "not-the-password"))
    assert "not-the-password" not in str(caught.value)
    with pytest.raises(SweepError, match="does not exist"):
        require_access(f"{good}_of_nobody")
    bare = postgres.url.replace("postgresql:", "postgresql+psycopg:")
    assert "PGPASSWORD" not in os.environ
    with pytest.raises(SweepError, match="PGPASSWORD"):
        require_access(bare)
    postgres.stop()
    try:
        assert "refused" in require_access(good)
    finally:
        postgres.start()
