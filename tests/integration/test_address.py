"""A sweep on a Ray cluster of two nodes that was there before it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    # Ray's own cluster fixture leaves its processes' files to the interpreter's exit.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def test_sweep_on_two_nodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray
    from ray.cluster_utils import Cluster

    from alignray.configuration import replace_at
    from alignray.launch import find_sweep, run_sweep

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    config = replace_at(
        find_sweep("quickstart"),
        {
            "arms": ["aligned", "mse"],
            "search.trials": 2,
            "trial.training.epochs": 2,
            "trial.members": 1,
            "holdout.members": 1,
        },
    )
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        result = run_sweep(
            config,
            name="two-nodes",
            storage=tmp_path / "runs",
            address=cluster.address,
            tracking_uri=f"sqlite:///{tmp_path / 'mlflow.db'}",
        )
    finally:
        ray.shutdown()
        cluster.shutdown()
    assert sorted(result.trials["arm"]) == ["aligned", "aligned", "mse", "mse"]
    assert set(result.trials["state"]) <= {"complete", "pruned"}
    assert set(result.comparison["arm"]) == {"aligned", "mse"}
    assert result.comparison["value"].notna().all()
    looks = json.loads((result.folder / "manifest.json").read_text())["holdout_looks"]
    assert looks == {"aligned": 1, "mse": 1}
