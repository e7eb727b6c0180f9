"""The errors of a training configuration name the field."""

from __future__ import annotations

import math

import pytest

from alignray.errors import ConfigurationError
from alignray.training import AnnealingConfig, OptimiserConfig, TrainingConfig


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("name", "adam", "one of adamw, sgd"),
        ("learning_rate", 0.0, "a number above 0"),
        ("learning_rate", math.nan, "a number above 0"),
        ("weight_decay", -0.1, "at least 0"),
        ("weight_decay", math.nan, "at least 0"),
        ("gradient_clip", 0.0, "a number above 0"),
        ("gradient_clip", math.nan, "a number above 0"),
    ],
)
def test_optimiser(field, value, expected):
    with pytest.raises(ConfigurationError, match=f"optimiser.{field}: expected {expected}, got {value!r}"):
        OptimiserConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("epochs", 0),
        ("patience", 0),
        ("eras_per_batch", 0),
        ("warmup_epochs", -1),
        ("sobolev", -0.1),
        ("sobolev", math.nan),
    ],
)
def test_training(field, value):
    with pytest.raises(ConfigurationError, match=f"training.{field}: expected at least [01], got {value}"):
        TrainingConfig(**{field: value})


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("epochs", -1, "at least 0"),
        ("strength", -0.1, "a number from 0 to 1"),
        ("strength", 1.1, "a number from 0 to 1"),
        ("strength", math.nan, "a number from 0 to 1"),
        ("width", -0.1, "at least 0"),
        ("width", math.nan, "at least 0"),
    ],
)
def test_annealing(field, value, expected):
    with pytest.raises(ConfigurationError, match=f"annealing.{field}: expected {expected}, got {value!r}"):
        AnnealingConfig(**{field: value})
