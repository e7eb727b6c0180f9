"""One Ray cluster and one MLflow store for all sweeps of a file: to start either takes longer than to run one."""

import pytest
from tiny_sweep import Done, tiny_sweep

from alignray.launch import run_sweep
from alignray.sweep import ray_cluster


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with ray_cluster(None):
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="module")
def first(store, tmp_path_factory):
    done = Done(tiny_sweep(), tmp_path_factory.mktemp("runs"), store)
    run_sweep(done.config, name="first", storage=done.storage, tracking_uri=store)
    return done
