"""Connecting to a Ray cluster that does not let one in."""

from __future__ import annotations

import socket

import pytest

from alignray.errors import SweepError
from alignray.sweep import ray_cluster


@pytest.fixture
def address():
    """Somebody answers there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


# What Ray 2.60 raises where the token is missing or wrong, and where it looks for one and finds none.
@pytest.mark.parametrize("kind", ["ConnectionError", "AuthenticationError"])
def test_a_cluster_that_wants_a_token_says_what_to_set(kind, address, monkeypatch):
    import ray

    error = ConnectionError if kind == "ConnectionError" else ray.exceptions.AuthenticationError

    def init(**options):
        raise error("Failed to connect")

    monkeypatch.setattr(ray, "init", init)
    with (
        pytest.raises(SweepError, match=f"no Ray cluster at {address}: Failed to connect") as caught,
        ray_cluster(address),
    ):
        pass
    for name in ("RAY_AUTH_MODE=token", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "ray get-auth-token"):
        assert name in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


def test_this_machine_wants_no_token(monkeypatch):
    import ray

    def init(**options):
        raise RuntimeError("no")

    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(SweepError, match="no Ray cluster at this machine") as caught, ray_cluster(None):
        pass
    assert "TOKEN" not in str(caught.value)


def test_ray_client_is_refused_with_what_to_do_instead():
    with (
        pytest.raises(SweepError, match=r"got 'ray://somewhere:10001'; .*--address auto"),
        ray_cluster("ray://somewhere:10001"),
    ):
        pass
