from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from alignray.errors import SweepError
from alignray.tracking import resolve_tracking_uri
from alignray.tracking.uri import redacted


def test_the_one_given_then_the_environment_then_sqlite_beside_the_user(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow.example:5000")
    assert resolve_tracking_uri("https://other.example") == "https://other.example"
    assert resolve_tracking_uri(None) == "http://mlflow.example:5000"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    assert resolve_tracking_uri(None) == f"sqlite:///{tmp_path}/mlflow.db"


def test_a_relative_database_is_made_absolute(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert resolve_tracking_uri("sqlite:///a/b.db") == f"sqlite:///{tmp_path}/a/b.db"
    assert resolve_tracking_uri("sqlite:////a/b.db") == "sqlite:////a/b.db"


@pytest.mark.parametrize(
    "uri", ["postgresql+psycopg://u:p@host/db", "mysql+pymysql://u:p@host/db", "databricks", "https://host/path"]
)
def test_stores_that_mlflow_knows_pass_as_they_are(uri):
    if uri == "databricks":
        uri = "databricks://profile"
    assert resolve_tracking_uri(uri) == uri


@pytest.mark.parametrize("uri", ["mlruns", "./mlruns", "/tmp/mlruns", "file:///tmp/mlruns", "ftp://host/x", "htp://h"])
def test_what_mlflow_cannot_keep_runs_in_is_refused_with_what_would_do(uri):
    with pytest.raises(SweepError, match=r"tracking URI: expected .*sqlite.*got") as caught:
        resolve_tracking_uri(uri)
    assert repr(uri) in str(caught.value)


secrets = st.text("abcXYZ0189/@:?#%+&=", min_size=1, max_size=12).map(lambda text: f"s3cr{text}et")


@given(secret=secrets, user=st.sampled_from(["", "me", "me@example.com"]))
@example(secret="s3cr/et", user="me")
@example(secret="s3cr@et", user="me")
def test_a_refusal_says_no_password(secret, user):
    for uri in (
        f"ftp://{user}:{secret}@host/db",
        f"ftp+ssl://{user}:{secret}@host:5432/db?x=1",
        f"{user or 'u'}:{secret}@host/db",
        f"htp://host/db?user={user}&password={secret}",
    ):
        with pytest.raises(SweepError) as caught:
            resolve_tracking_uri(uri)
        assert secret[:4] not in str(caught.value)
        assert "et@" not in str(caught.value)


def test_redaction_leaves_what_is_no_secret():
    assert redacted("http://host:5000/x") == "http://host:5000/x"
    assert redacted("postgresql://me:pw@host:5432/db") == "postgresql://…"
    assert redacted(f"sqlite:///{Path('/a/mlflow.db')}") == "sqlite:////a/mlflow.db"
