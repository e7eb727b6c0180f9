"""What a trial writes about itself."""

from __future__ import annotations

import re
import warnings

import pytest

from alignray.errors import SweepError, TrainingError
from alignray.sweep import read_log
from alignray.sweep.log import TrialLog

METRICS = {"train/loss": 0.5, "val/corr": 0.0312, "time/epoch_s": 1.5}
METRICS |= {"train/diverged": 0.0, "solver/unconverged": 3.0, "val/unscored": 0.0}


def lines(folder) -> list[str]:
    """The lines, without their times."""
    found = read_log(folder, "mse-0").splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  ", line) for line in found)
    return [line[21:] for line in found]


def test_an_epoch_is_a_line_that_names_what_is_amiss(tmp_path):
    TrialLog(tmp_path, "mse-0").epoch(2, "val/corr", METRICS)
    assert lines(tmp_path) == ["epoch 2, train/loss 0.5, val/corr 0.0312, 1.50 s, solver/unconverged 3"]


def test_warnings_and_errors_are_written_and_go_on(tmp_path):
    log = TrialLog(tmp_path, "mse-0")
    with pytest.warns(UserWarning, match="beware") as caught, log.watching():
        warnings.warn("beware", UserWarning, stacklevel=1)
    assert len(caught) == 1
    with pytest.raises(TrainingError), log.watching():
        raise TrainingError("every member has diverged")
    with pytest.raises(ZeroDivisionError), log.watching():
        1 / 0  # noqa: B018
    first, second, third, *trace = lines(tmp_path)
    assert (first, second, third) == ("warning: UserWarning: beware", "failed: every member has diverged", "failed:")
    assert trace[0] == "Traceback (most recent call last):"
    assert trace[-1] == "ZeroDivisionError: division by zero"


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path):
    (tmp_path / "logs").write_text("in the way")
    with pytest.warns(RuntimeWarning, match="logs"):
        TrialLog(tmp_path, "mse-0").write("started")


def test_a_trial_without_a_log_is_refused_with_those_that_have_one(tmp_path):
    with pytest.raises(SweepError, match="no trial of it has begun"):
        read_log(tmp_path, "mse-0")
    TrialLog(tmp_path, "mse-0").write("started")
    with pytest.raises(SweepError, match=r"no log of a trial '\.\./manifest'; the logs there are of mse-0"):
        read_log(tmp_path, "../manifest")
