import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.tracking import Event, RunEnd, RunNote, RunStart, with_password, without_password, without_secrets

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "pass-of-mlflow",
    "MLFLOW_TRACKING_TOKEN": "tok-of-mlflow",
    "PGPASSWORD": "pass-of-postgres",
    "AWS_SECRET_ACCESS_KEY": "abc/def+ghi=",
    "AWS_SESSION_TOKEN": "tok-of-aws",
    "RAY_AUTH_TOKEN": "tok-of-ray",
    "NUMERAI_SECRET_KEY": "numerai-s3cr3t",
    "OPENAI_API_KEY": "sk-123456",
}


@pytest.fixture
def secret(monkeypatch):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize("name", sorted(SECRETS))
def test_a_secret_of_the_environment_is_taken_out_of_any_text(secret, name):
    assert without_secrets(f"x{SECRETS[name]}y, {SECRETS[name]}") == "x…y, …"


def test_what_is_no_secret_stays(monkeypatch):
    for name, value in {
        "TOKENIZERS_PARALLELISM": "parallel",
        "HOME": "/home/me-myself",
        "DB_PASSWORD": "short",
    }.items():
        monkeypatch.setenv(name, value)
    text = "parallel /home/me-myself short https://host:5000/x?page=2 me@example.com s3://bucket/key 12 % of 3"
    assert without_secrets(text) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("at http://me:pw@host:5000/x failed", "at http://…@host:5000/x failed"),
        ("postgresql+psycopg://me:p@s/s@host/db", "postgresql+psycopg://…@host/db"),
        ("https://h/db?user=me&password=abc&x=1", "https://h/db?user=me&password=…&x=1"),
        (
            "https://b.s3.example/o?X-Amz-Signature=ff00&X-Amz-Date=1",
            "https://b.s3.example/o?X-Amz-Signature=…&X-Amz-Date=1",
        ),
    ],
)
def test_addresses_lose_what_is_secret_in_them(text, expected):
    assert without_secrets(text) == expected
    assert without_secrets(expected) == expected


def test_an_event_never_holds_a_secret(secret):
    address, hidden = "http://me:pw@host/x", SECRETS["PGPASSWORD"]
    for event in (
        RunStart(key="sweep", tags={"a": address}, params={"b": hidden, "c": 1}, datasets={"d": {"source": address}}),
        RunNote(key="sweep", tags={"a": f"{address} {hidden}"}),
        RunEnd(key="sweep", status="FAILED", tags={"alignray.reason": f"no {hidden}"}),
    ):
        line = event.to_line()
        assert "pw" not in line
        assert hidden not in line
        assert Event.from_line(line) == event


@pytest.mark.parametrize(
    ("uri", "kept"),
    [
        ("http://me:pw@host:5000/x", "http://me@host:5000/x"),
        ("postgresql://me@host/db?sslmode=require", "postgresql://me@host/db?sslmode=require"),
        ("postgresql://me:p:w@host/db?sslmode=require&password=p&x=1", "postgresql://me@host/db?sslmode=require&x=1"),
        ("mysql+pymysql://host/db?password=p", "mysql+pymysql://host/db"),
        ("sqlite:////a/b@c.db", "sqlite:////a/b@c.db"),
        ("http://host", "http://host"),
    ],
)
def test_an_address_is_kept_with_its_user_and_without_its_password(uri, kept, monkeypatch):
    assert without_password(uri) == kept
    assert without_password(kept) == kept
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert with_password(kept) == kept
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert with_password(kept) == uri
    assert with_password("http://another") == "http://another"


@given(
    password=st.text("abXY0189/@:?#%+&=", min_size=1, max_size=12).map(lambda text: f"s3cr{text}et"),
    user=st.sampled_from(["", "me", "me@example.com"]),
)
def test_no_password_is_kept_whatever_it_is_made_of(password, user):
    kept = without_password(f"postgresql://{user}:{password}@host:5432/db")
    assert "s3cr" not in kept
    assert kept.endswith("@host:5432/db")
    assert without_password(kept) == kept
