"""A store that will not let us write ends the command before the sweep begins; one that is away does not."""

import sqlite3

import pytest
from small_sweep import SMALL, alignray


def test_a_file_that_is_no_store_is_one_line_and_status_2(tmp_path):
    (tmp_path / "notes.db").write_text("not a database, though long enough to be taken for the header of one" * 20)
    done = alignray(tmp_path, "run", "quickstart", "--name", "first", "--tracking-uri", "sqlite:///notes.db", *SMALL)
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert "file is not a database" in line
    assert "--tracking-uri" in line
    assert not (tmp_path / "runs").exists()


def test_a_database_of_an_unknown_kind_is_one_line_and_status_2(tmp_path):
    uri = "mysql+nosuchdriver://me:s3cr3t@127.0.0.1:1/db"
    done = alignray(tmp_path, "run", "quickstart", "--name", "first", "--tracking-uri", uri, *SMALL)
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "s3cr3t" not in done.stdout + done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.timeout(1_800)
def test_a_server_that_is_down_does_not_stop_a_sweep_and_no_password_is_kept(tmp_path):
    uri = "http://me:s3cr3t-of-mine@127.0.0.1:9"
    done = alignray(tmp_path, "run", "quickstart", "--name", "first", "--tracking-uri", uri, *SMALL, timeout=900)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert "MLflow lacks some of it" in line
    assert "does not answer" in done.stdout
    assert (tmp_path / "runs" / "first" / "report.html").exists()
    for path in (tmp_path / "runs" / "first").rglob("*"):
        if path.is_file():
            assert b"s3cr3t-of-mine" not in path.read_bytes(), path
    assert "s3cr3t-of-mine" not in done.stdout + done.stderr

    done = alignray(tmp_path, "resume", "first", "--tracking-uri", "sqlite:///mlflow.db", timeout=900)
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        kinds = dict(database.execute("SELECT value, COUNT(*) FROM tags WHERE key = 'alignray.kind' GROUP BY value"))
        doubled = "SELECT COUNT(*) FROM metrics WHERE key LIKE 'val/%' GROUP BY run_uuid, key, step HAVING COUNT(*) > 1"
        assert database.execute(doubled).fetchall() == []
    database.close()
    assert kinds == {"sweep": 1, "trial": 12, "final": 4}
