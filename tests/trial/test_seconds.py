"""The parts of an epoch's time."""

from __future__ import annotations

import pytest

from alignray.trial import PARTS, seconds_by_part


def test_parts_add_up_to_the_epoch():
    shares = {"time/scoring_share": 0.25, "time/solver_share": 0.5, "time/loader_share": 0.1}
    parts = seconds_by_part({"time/epoch_s": 8.0, **shares})
    assert tuple(parts) == PARTS
    assert sum(parts.values()) == pytest.approx(8.0)
    assert parts == pytest.approx({"network": 2.4, "solver": 3.0, "loader": 0.6, "scoring": 2.0})
