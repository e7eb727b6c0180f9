"""Walk-forward folds: train on the past, validate on what comes next, and seal the last eras."""

from __future__ import annotations

from typing import NamedTuple

from alignray.errors import InvalidArgumentError


class Fold(NamedTuple):
    """One cut of the usable eras, as ranges of era indices."""

    train: range
    validation: range


class WalkForward(NamedTuple):
    """All the folds, in time order, and the holdout, which no fold touches."""

    folds: tuple[Fold, ...]
    holdout: range


def walk_forward(num_eras: int, *, folds: int, embargo: int, holdout: int) -> WalkForward:
    """Cut eras into expanding training windows, each followed by its validation window, and a sealed holdout.

    The eras before the holdout and its embargo are cut into ``folds + 1`` equal blocks; the first also takes the
    remainder. Fold i validates on block i + 1 and trains on all that comes before it, less the embargo.

    Args:
        num_eras: The number of eras, in time order.
        folds: The number of folds, at least 1.
        embargo: The eras left unused between training and validation, and between validation and holdout, so that a
            target that looks several eras ahead cannot leak: at least the target's horizon less one era.
        holdout: The number of last eras to seal. 0 seals none, and needs no embargo after the last validation.

    Raises:
        InvalidArgumentError: An argument is out of its range, or a training or validation window would be empty.
    """
    for name, value, least in (("folds", folds, 1), ("embargo", embargo, 0), ("holdout", holdout, 0)):
        if value < least:
            raise InvalidArgumentError(f"{name} must be at least {least}, got {value}")
    sealed = holdout + embargo if holdout else 0
    usable = num_eras - sealed
    block = usable // (folds + 1)
    first = usable - folds * block
    if block < 1 or first <= embargo:
        raise InvalidArgumentError(
            f"num_eras={num_eras} with holdout={holdout} and embargo={embargo} leaves {usable} eras, too few for "
            f"folds={folds}: a training or validation window would be empty; ask for fewer folds, a shorter embargo or "
            "holdout, or more eras"
        )
    starts = range(first, usable, block)
    return WalkForward(
        folds=tuple(Fold(range(start - embargo), range(start, start + block)) for start in starts),
        holdout=range(num_eras - holdout, num_eras),
    )
