import multiprocessing
import sqlite3

import pytest
from mlflow import MlflowClient

from alignray.tracking.store import make_store


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_store_is_made_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    uri = f"sqlite:///{tmp_path}/new/mlflow.db"
    make_store(uri)
    assert names(tmp_path / "new") == ["mlflow.db"]
    client = MlflowClient(uri)
    run = client.create_run(client.create_experiment("e"))
    assert client.get_run(run.info.run_id).info.status == "RUNNING"


def test_a_store_that_is_there_is_left_as_it_is(store, tmp_path):
    before = (tmp_path / "mlflow.db").read_bytes()
    make_store(store)
    assert (tmp_path / "mlflow.db").read_bytes() == before
    assert names(tmp_path) == ["mlflow.db"]


@pytest.mark.parametrize("uri", ["http://host:5000", "postgresql://u:p@host/db", "sqlite://", "sqlite:///:memory:"])
def test_other_stores_are_not_ours_to_make(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_store(uri)
    assert names(tmp_path) == []


def test_a_crash_leaves_no_half_made_store(tmp_path, monkeypatch):
    """MLflow could not go on with one: it would find a table that is already there, for ever."""
    search = MlflowClient.search_experiments

    def die(self, **kwargs):
        search(self, **kwargs)
        raise MemoryError("here the process died")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(MlflowClient, "search_experiments", die)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(MemoryError):
        make_store(uri)
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    make_store(uri)
    assert MlflowClient(uri).search_experiments()


def _make(uri, ready, results):
    ready.wait()
    try:
        make_store(uri)
        results.put(len(MlflowClient(uri).search_experiments()))
    except Exception as error:
        results.put(repr(error))


def test_two_processes_that_make_it_together_both_have_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(2), context.Queue()
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    processes = [context.Process(target=_make, args=(uri, ready, results)) for _ in range(2)]
    for process in processes:
        process.start()
    assert [results.get(timeout=120) for _ in processes] == [1, 1]
    for process in processes:
        process.join()
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert names(tmp_path) == ["mlflow.db"]
