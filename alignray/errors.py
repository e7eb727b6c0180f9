"""The errors that alignray raises.

A mistake of the caller is a ``ValueError`` that names the argument, what was expected, what was got and what to do.
Work that failed through no mistake of the caller is a ``RuntimeError``. Both are also ``AlignrayError``.
"""

from __future__ import annotations


class AlignrayError(Exception):
    """The base of every error that alignray raises on purpose."""


class InvalidArgumentError(AlignrayError, ValueError):
    """An argument does not fit: its value, shape, type or device."""


class ConfigurationError(InvalidArgumentError):
    """A configuration names a field that does not exist, or gives one a value that it cannot take."""


class CostError(InvalidArgumentError):
    """A cost has no unique decision, or a term's parameter lies outside its range."""


class DataError(InvalidArgumentError):
    """A data set lacks what is asked of it, or holds what cannot be used."""


class SweepError(InvalidArgumentError):
    """A sweep cannot start or go on: its name is taken, its folder cannot be written, its record is missing."""


class WorkError(AlignrayError, RuntimeError):
    """The work itself failed."""


class StorageError(WorkError):
    """A sweep's folder can no longer be written to: its disk is full, say."""


class UnconvergedError(WorkError):
    """A solve did not reach its tolerance, so its decision and its gradient cannot be trusted."""


class TrainingError(WorkError):
    """A training run cannot go on: a loss or a prediction is not finite."""


class OutOfMemoryError(WorkError):
    """A trial needs more memory than its device has left."""
