import shutil

import pytest


@pytest.fixture(scope="session")
def blank_database(tmp_path_factory):
    """An MLflow database without a run: made once, because making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def store(blank_database, tmp_path, monkeypatch):
    """The address of an MLflow store of the test's own."""
    monkeypatch.chdir(tmp_path)  # artifacts go below the working folder
    return f"sqlite:///{shutil.copy(blank_database, tmp_path / 'mlflow.db')}"
