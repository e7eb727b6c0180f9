"""Optuna's own suites on what the engine wraps: the storages as they are opened, the samplers as they are made."""

from __future__ import annotations

import warnings

import optuna
import pytest
from optuna.testing.pytest_samplers import (
    BasicSamplerTestCase,
    MultiObjectiveSamplerTestCase,
    RelativeSamplerTestCase,
    SingleOnlySamplerTestCase,
)
from optuna.testing.pytest_storages import StorageTestCase

from alignray.search import SAMPLERS, storage

pytestmark = [
    pytest.mark.slow,
    # The suites use what Optuna calls experimental or will rename.
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


class TestJournal(StorageTestCase):
    @pytest.fixture
    def storage(self, tmp_path):
        return storage.open_storage(None, tmp_path / "optuna.journal")


class TestPostgres(StorageTestCase):
    @pytest.fixture
    def storage(self, postgres, monkeypatch):
        monkeypatch.setenv("PGPASSWORD", postgres.password)
        opened = storage.open_storage(postgres.url, None)
        for study in opened.get_all_studies():
            opened.delete_study(study._study_id)
        yield opened
        opened.engine.dispose()
        storage._open_postgres.cache_clear()


def made(name):
    """As `Learning.propose` makes it, for the suites, which want a sampler without a study of ours."""

    def sampler():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return SAMPLERS[name].optuna_sampler(0)

    return sampler


# Of the samplers only those that are Optuna's: random, qmc and grid propose without a study, from a seed and a number.


# Not the suite of relative sampling, which asks for points without letting the sampler find its groups of fields first.
class TestTpe(BasicSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made("tpe")


class TestCmaEs(BasicSamplerTestCase, RelativeSamplerTestCase, SingleOnlySamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made("cmaes")


class TestGaussianProcess(BasicSamplerTestCase, RelativeSamplerTestCase, MultiObjectiveSamplerTestCase):
    @pytest.fixture
    def sampler(self):
        return made("gp")
