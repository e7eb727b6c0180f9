"""What a sweep says of its tracker: when something begins and when it ends, and no more."""

from pathlib import Path

import pytest

from alignray.launch.tracked import news
from alignray.tracking import Backlog

SPOOL = Path("runs/demo/spool")
QUIET, AWAY = Backlog(0), Backlog(9, error="ConnectionError: refused")
FULL = Backlog(9, error="ConnectionError: refused", waiting="the spool holds its 1,000 MB")
REFUSED = Backlog(0, refused=2, last_refusal="mse-0: RestException: no")


@pytest.mark.parametrize(
    ("before", "now", "said"),
    [
        (QUIET, QUIET, []),
        (QUIET, AWAY, ["cannot be written to (ConnectionError: refused); the sweep goes on"]),
        (AWAY, AWAY, []),
        (AWAY, FULL, ["the spool holds its 1,000 MB, so trials wait"]),
        (FULL, QUIET, ["takes events again", "trials go on"]),
        (
            QUIET,
            REFUSED,
            ["refused 2 values, kept in runs/demo/spool/refused.jsonl; the last, of mse-0: RestException"],
        ),
        (REFUSED, REFUSED, []),
    ],
)
def test_what_changes_is_said_once(before, now, said):
    texts = list(news(before, now, SPOOL))
    assert len(texts) == len(said)
    for text, part in zip(texts, said, strict=True):
        assert part in text
