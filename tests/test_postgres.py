import psycopg
import pytest


def test_the_server_answers_to_its_password_alone(postgres, monkeypatch):
    monkeypatch.delenv("PGPASSWORD", raising=False)
    monkeypatch.setenv("PGPASSFILE", "/dev/null")
    with psycopg.connect(postgres.url_with_password) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
    with pytest.raises(psycopg.OperationalError, match="password"):
        psycopg.connect(postgres.url)


def test_a_server_that_was_stopped_starts_again_with_its_data(postgres):
    with psycopg.connect(postgres.url_with_password) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
    postgres.stop()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(postgres.url_with_password)
    postgres.start()
    with psycopg.connect(postgres.url_with_password) as connection:
        assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        connection.execute("DROP TABLE kept")
