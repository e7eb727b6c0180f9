from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alignray.data import blocked, walk_forward
from alignray.errors import InvalidArgumentError

SIZES = {
    "num_eras": st.integers(1, 200),
    "count": st.integers(1, 12),
    "embargo": st.integers(0, 15),
    "holdout": st.integers(0, 40),
}


def spans(eras, horizon):
    """The eras that the targets of some eras look at."""
    return {seen for era in eras for seen in range(era, era + horizon)}


def assert_nothing_leaks(split, num_eras, *, embargo, holdout):
    """No two windows share an era, and no two targets of them that look embargo + 1 eras ahead share one either."""
    assert split.holdout == range(num_eras - holdout, num_eras)
    for train, validation in split.folds:
        assert list(train) == sorted(set(train))
        assert len(train) > 0
        assert len(validation) > 0
        assert {*train, *validation} <= set(range(num_eras - holdout))
        looked_at = [spans(eras, embargo + 1) for eras in (train, validation, split.holdout)]
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert not looked_at[one] & looked_at[other]
    for earlier, later in pairwise(split.folds):
        assert max(earlier.validation) < min(later.validation)


def cut_or_refuse(cut, feasible, num_eras, **arguments):
    """The split, or None where the arguments leave a window empty, which is refused."""
    if feasible:
        return cut(num_eras, **arguments)
    with pytest.raises(InvalidArgumentError, match="too few"):
        cut(num_eras, **arguments)
    return None


def test_the_first_block_takes_the_remainder():
    folds, holdout = walk_forward(20, folds=3, embargo=2, holdout=4)
    assert folds == ((range(3), range(5, 8)), (range(6), range(8, 11)), (range(9), range(11, 14)))
    assert holdout == range(16, 20)


def test_no_holdout_needs_no_embargo_before_it():
    folds, holdout = walk_forward(14, folds=3, embargo=2, holdout=0)
    assert folds == walk_forward(20, folds=3, embargo=2, holdout=4).folds
    assert list(holdout) == []


def test_a_rolling_window_is_always_full():
    folds, holdout = walk_forward(21, folds=3, embargo=2, holdout=4, window=3)
    assert folds == ((range(1, 4), range(6, 9)), (range(4, 7), range(9, 12)), (range(7, 10), range(12, 15)))
    assert holdout == range(17, 21)


def test_a_blocked_fold_trains_on_both_sides():
    folds, holdout = blocked(17, folds=3, embargo=2, holdout=4)
    assert folds == (((7, 8, 9, 10), range(5)), ((0, 1, 2, 10), range(5, 8)), ((0, 1, 2, 3, 4, 5), range(8, 11)))
    assert holdout == range(13, 17)


@given(**SIZES)
def test_nothing_leaks_from_an_expanding_window(num_eras, count, embargo, holdout):
    usable = num_eras - (holdout + embargo if holdout else 0)
    block = usable // (count + 1)
    feasible = block >= 1 and usable - count * block > embargo
    split = cut_or_refuse(walk_forward, feasible, num_eras, folds=count, embargo=embargo, holdout=holdout)
    if split is None:
        return
    assert_nothing_leaks(split, num_eras, embargo=embargo, holdout=holdout)
    assert len(split.folds) == count
    for train, validation in split.folds:
        assert train == range(min(validation) - embargo)
        assert len(validation) == block


@given(**SIZES, window=st.integers(1, 60))
def test_nothing_leaks_from_a_rolling_window(num_eras, count, embargo, holdout, window):
    block = (num_eras - (holdout + embargo if holdout else 0) - window - embargo) // count
    arguments = {"folds": count, "embargo": embargo, "holdout": holdout, "window": window}
    split = cut_or_refuse(walk_forward, block >= 1, num_eras, **arguments)
    if split is None:
        return
    assert_nothing_leaks(split, num_eras, embargo=embargo, holdout=holdout)
    assert len(split.folds) == count
    for train, validation in split.folds:
        assert train == range(min(validation) - embargo - window, min(validation) - embargo)
        assert len(validation) == block


@given(**SIZES | {"count": st.integers(2, 12)})
def test_nothing_leaks_between_blocks(num_eras, count, embargo, holdout):
    usable = num_eras - (holdout + embargo if holdout else 0)
    block = usable // count
    first = usable - (count - 1) * block
    # A fold trains on something if one side reaches beyond the embargo: the block furthest from an end decides.
    reach = [max(first + number * block - block, usable - first - number * block) for number in range(1, count)]
    feasible = block >= 1 and min([usable - first, *reach]) > embargo
    split = cut_or_refuse(blocked, feasible, num_eras, folds=count, embargo=embargo, holdout=holdout)
    if split is None:
        return
    assert_nothing_leaks(split, num_eras, embargo=embargo, holdout=holdout)
    assert [era for fold in split.folds for era in fold.validation] == list(range(usable))
    for train, validation in split.folds:  # nothing that the embargo allows is left out
        near = range(min(validation) - embargo, max(validation) + embargo + 1)
        assert set(train) == set(range(usable)) - set(near)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folds": 0}, "folds must be at least 1, got 0"),
        ({"embargo": -1}, "embargo must be at least 0, got -1"),
        ({"holdout": -1}, "holdout must be at least 0, got -1"),
        ({"window": 0}, "window must be at least 1, got 0"),
        ({"embargo": 10}, "num_eras=40 with holdout=8 and embargo=10 leaves 22 eras, too few for folds=3"),
        ({"folds": 4, "embargo": 8, "holdout": 0}, "leaves 40 eras, too few for folds=4"),
        ({"window": 26}, "too few for folds=3 and window=26: .* embargo, holdout or window, or more eras"),
        ({"holdout": 50}, "leaves -12 eras, too few"),
    ],
)
def test_parameters_that_leave_nothing_are_refused(arguments, words):
    with pytest.raises(InvalidArgumentError, match=words):
        walk_forward(40, **{"folds": 3, "embargo": 2, "holdout": 8, **arguments})


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"folds": 1}, "folds must be at least 2, got 1"),
        ({"embargo": -1}, "embargo must be at least 0, got -1"),
        ({"holdout": -1}, "holdout must be at least 0, got -1"),
        ({"embargo": 14}, "num_eras=40 with holdout=8 and embargo=14 leaves 18 eras, too few for folds=3"),
        ({"folds": 31}, "leaves 30 eras, too few for folds=31"),
    ],
)
def test_blocks_that_leave_nothing_are_refused(arguments, words):
    with pytest.raises(InvalidArgumentError, match=words):
        blocked(40, **{"folds": 3, "embargo": 2, "holdout": 8, **arguments})
