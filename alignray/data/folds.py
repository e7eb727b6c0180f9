"""Folds: which eras to train on, which to validate on, and the last eras, which are sealed.

The target of era e looks at the eras e … e + horizon − 1, its span. Between a training era and a validation era, and
between either and the holdout, lie at least ``embargo`` eras, so no two of their spans meet if horizon ≤ embargo + 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

from alignray.errors import InvalidArgumentError

EMBARGO = 8
"""Eras, enough for Numerai's weekly eras and targets of 20 days; its targets of 60 days want 16."""


class Fold(NamedTuple):
    """One cut of the usable eras, as indices of eras in time order."""

    train: Sequence[int]
    validation: range


class Split(NamedTuple):
    """All the folds, in the order of their validations, and the holdout, which no fold touches."""

    folds: tuple[Fold, ...]
    holdout: range


def walk_forward(
    num_eras: int, *, folds: int, embargo: int = EMBARGO, holdout: int, window: int | None = None
) -> Split:
    """Train on the past, validate on what comes next: expanding or rolling training windows, and a sealed holdout.

    Without a window, the eras before the holdout and its embargo are cut into ``folds + 1`` equal blocks; the first
    also takes the remainder. Fold i validates on block i + 1 and trains on all that comes before it, less the embargo.

    With one, the eras that follow the first window and its embargo are cut into ``folds`` equal blocks; the remainder,
    the very first eras, is left out. Fold i validates on block i and trains on ``window`` eras, which end an embargo
    before it.

    Args:
        num_eras: The number of eras, in time order.
        folds: The number of folds, at least 1.
        embargo: The eras left unused between training and validation, and between validation and holdout, so that a
            target that looks several eras ahead cannot leak: at least the target's horizon less one era.
        holdout: The number of last eras to seal. 0 seals none, and needs no embargo after the last validation.
        window: The number of eras in each training window; None trains on all the past.

    Raises:
        InvalidArgumentError: An argument is out of its range, or a training or validation window would be empty.
    """
    usable, sealed = _usable(num_eras, folds, embargo, holdout, least_folds=1)
    if window is None:
        block = usable // (folds + 1)
    elif window < 1:
        raise InvalidArgumentError(f"window must be at least 1, got {window}")
    else:
        block = (usable - window - embargo) // folds
    first = usable - folds * block
    if block < 1 or first <= embargo:
        raise _too_few(num_eras, folds, embargo, holdout, window)
    starts = range(first, usable, block)
    return Split(
        folds=tuple(
            Fold(range(0 if window is None else start - embargo - window, start - embargo), range(start, start + block))
            for start in starts
        ),
        holdout=sealed,
    )


def blocked(num_eras: int, *, folds: int, embargo: int = EMBARGO, holdout: int) -> Split:
    """Validate on each block of eras in turn, and train on both sides of it: purged K-fold, and a sealed holdout.

    The eras before the holdout and its embargo are cut into ``folds`` equal blocks; the first also takes the remainder.
    Fold i validates on block i and trains on all the eras before and after it, less the embargo on either side. It uses
    every era, but trains on eras later than those that it validates on: what has changed since, it has seen. See
    Lopez de Prado, *Advances in Financial Machine Learning* (2018), chapter 7.

    Args:
        num_eras: The number of eras, in time order.
        folds: The number of folds, at least 2.
        embargo: The eras left unused on either side of a validation block, and before the holdout: at least the
            target's horizon less one era.
        holdout: The number of last eras to seal. 0 seals none, and needs no embargo after the last era that is used.

    Raises:
        InvalidArgumentError: An argument is out of its range, or a training or validation window would be empty.
    """
    usable, sealed = _usable(num_eras, folds, embargo, holdout, least_folds=2)
    block = usable // folds
    if block < 1:
        raise _too_few(num_eras, folds, embargo, holdout)
    cuts = [0, *range(usable - (folds - 1) * block, usable + 1, block)]
    result = []
    for start, stop in pairwise(cuts):
        train = (*range(start - embargo), *range(stop + embargo, usable))
        if not train:
            raise _too_few(num_eras, folds, embargo, holdout)
        result.append(Fold(train, range(start, stop)))
    return Split(folds=tuple(result), holdout=sealed)


def _usable(num_eras: int, folds: int, embargo: int, holdout: int, *, least_folds: int) -> tuple[int, range]:
    """How many eras come before the holdout and its embargo, and the holdout."""
    for name, value, least in (("folds", folds, least_folds), ("embargo", embargo, 0), ("holdout", holdout, 0)):
        if value < least:
            raise InvalidArgumentError(f"{name} must be at least {least}, got {value}")
    return num_eras - (holdout + embargo if holdout else 0), range(num_eras - holdout, num_eras)


def _too_few(num_eras: int, folds: int, embargo: int, holdout: int, window: int | None = None) -> InvalidArgumentError:
    usable = num_eras - (holdout + embargo if holdout else 0)
    with_window, shorter = ("", "") if window is None else (f" and window={window}", " or window")
    return InvalidArgumentError(
        f"num_eras={num_eras} with holdout={holdout} and embargo={embargo} leaves {usable} eras, too few for "
        f"folds={folds}{with_window}: a training or validation window would be empty; ask for fewer folds, a shorter "
        f"embargo, holdout{shorter}, or more eras"
    )
