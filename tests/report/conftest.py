"""A sweep of two arms with made-up scores."""

from __future__ import annotations

import pytest
from made_up import SWEEP, made_up_scores

from alignray.sweep import Manifest
from alignray.trial import Scores


@pytest.fixture
def scores() -> Scores:
    return made_up_scores()


@pytest.fixture
def manifest(panel) -> Manifest:
    return Manifest.of("demo", SWEEP, panel, "sqlite:///mlflow.db")
