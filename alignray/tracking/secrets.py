"""Passwords and tokens, kept out of all that is written down or shown."""

from __future__ import annotations

import os
import re

_SECRET_NAME = re.compile(
    r"PASSW(OR)?D|PASSPHRASE|SECRET|CREDENTIALS?$|API_?KEY|ACCESS_KEY|PRIVATE_KEY|(^|_)TOKEN$", flags=re.IGNORECASE
)
_SHORTEST = 6
_USER_INFO = re.compile(r"(://)[^\s\"'<>]*@")
_IN_QUERY = re.compile(
    r"([?&;](?:[\w-]*(?:password|passwd|secret|token|api_?key|access_?key|signature)[\w-]*|pwd|sig)=)[^&;\s\"'<>]+",
    flags=re.IGNORECASE,
)


def without_secrets(text: str) -> str:
    """A text with ``…`` for the secrets in it.

    These are users and passwords of addresses, passwords and tokens in an address's query, and the values of the
    environment's variables whose names say that they are secret (``PGPASSWORD``, ``MLFLOW_TRACKING_TOKEN``,
    ``AWS_SECRET_ACCESS_KEY``, …), of six characters or more: a shorter one would be found in what is no secret.
    """
    if "://" in text:
        text = _IN_QUERY.sub(r"\1…", _USER_INFO.sub(r"\1…@", text))
    for value in _secret_values():
        text = text.replace(value, "…")
    return text


def without_secret_items(uri: str) -> str:
    """An address without the passwords and tokens of its query."""
    kept = _IN_QUERY.sub(r"\1", uri)
    bare = re.sub(r"(?<=[?&;])[\w-]+=(&|;|$)", "", kept) if kept != uri else uri
    return bare.rstrip("?&;") if kept != uri else uri


def _secret_values() -> list[str]:
    """The longest first: one may contain another."""
    values = {value for name, value in os.environ.items() if len(value) >= _SHORTEST and _SECRET_NAME.search(name)}
    return sorted(values, key=len, reverse=True)
