from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.data import walk_forward
from alignray.errors import InvalidArgumentError


def test_the_first_block_takes_the_remainder():
    folds, holdout = walk_forward(20, folds=3, embargo=2, holdout=4)
    assert folds == ((range(3), range(5, 8)), (range(6), range(8, 11)), (range(9), range(11, 14)))
    assert holdout == range(16, 20)


def test_no_holdout_needs_no_embargo_before_it():
    folds, holdout = walk_forward(14, folds=3, embargo=2, holdout=0)
    assert folds == walk_forward(20, folds=3, embargo=2, holdout=4).folds
    assert list(holdout) == []


@given(
    num_eras=st.integers(1, 200),
    count=st.integers(1, 12),
    embargo=st.integers(0, 15),
    holdout=st.integers(0, 40),
)
def test_nothing_leaks(num_eras, count, embargo, holdout):
    sealed = holdout + embargo if holdout else 0
    block = (num_eras - sealed) // (count + 1)
    feasible = block >= 1 and (num_eras - sealed) - count * block > embargo
    if not feasible:
        with pytest.raises(InvalidArgumentError, match="too few"):
            walk_forward(num_eras, folds=count, embargo=embargo, holdout=holdout)
        return
    folds, last = walk_forward(num_eras, folds=count, embargo=embargo, holdout=holdout)
    assert len(folds) == count
    assert last == range(num_eras - holdout, num_eras)
    for train, validation in folds:
        assert train.start == 0
        assert len(train) > 0
        assert len(validation) == block
        assert max(train) + embargo < min(validation)
        assert max(validation) + (embargo if holdout else 0) < last.start
    for earlier, later in pairwise(folds):
        assert max(earlier.validation) < min(later.validation)
        assert len(earlier.train) < len(later.train)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folds": 0}, "folds must be at least 1, got 0"),
        ({"embargo": -1}, "embargo must be at least 0, got -1"),
        ({"holdout": -1}, "holdout must be at least 0, got -1"),
        ({"embargo": 10}, "num_eras=40 with holdout=8 and embargo=10 leaves 22 eras, too few for folds=3"),
        ({"folds": 4, "embargo": 8, "holdout": 0}, "leaves 40 eras, too few for folds=4"),
        ({"holdout": 50}, "leaves -12 eras, too few"),
    ],
)
def test_parameters_that_leave_nothing_are_refused(arguments, words):
    with pytest.raises(InvalidArgumentError, match=words):
        walk_forward(40, **{"folds": 3, "embargo": 2, "holdout": 8, **arguments})
