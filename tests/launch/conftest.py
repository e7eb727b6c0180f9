"""One Ray cluster and one MLflow store for all sweeps of these tests: to start either takes longer than to run one.

Both end with these tests: others want no cluster, or one of their own.
"""

import pytest
from tiny_sweep import Done, tiny_sweep

from alignray.launch import run_sweep
from alignray.sweep import ray_cluster


@pytest.fixture(scope="package")
def store(tmp_path_factory):
    with ray_cluster(None):
        yield f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}"


@pytest.fixture(scope="package")
def first(store, tmp_path_factory):
    done = Done(tiny_sweep(), tmp_path_factory.mktemp("runs"), store)
    run_sweep(done.config, name="first", storage=done.storage, tracking_uri=store)
    return done
