"""A sweep on a cluster whose nodes come and go: trials spread, nothing is lost or doubled, a new node is used."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from rig import trial_nodes

import alignray as ar
from alignray.launch import run_sweep
from alignray.sweep import Silent

pytestmark = [
    pytest.mark.ray,
    pytest.mark.slow,
    pytest.mark.timeout(900),
    # Ray's own cluster fixture leaves its processes' files to the interpreter's exit.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ARMS, TRIALS, EPOCHS = ("aligned", "mse"), 3, 16


@pytest.fixture
def cluster(monkeypatch):
    """A head of one core, and a node of one."""
    import ray
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


class Watch(Silent):
    """Sees on which nodes trials run, and calls what is to happen once so many trials have ended."""

    def __init__(self, events):
        self.events, self.nodes, self.warnings = dict(events), set(), []

    def update(self, snapshot):
        now = trial_nodes()
        self.nodes |= now
        for after in [after for after in self.events if after <= snapshot.ended]:
            if self.events[after](now):
                del self.events[after]

    def warn(self, text):
        self.warnings.append(text)


def swept(cluster, folder, watch, **resources):
    panel = ar.datasets.synthetic(num_eras=60, rows=120, num_features=8, seed=0)
    ar.write_shards(panel, folder / "panel", eras_per_shard=20)
    cost = ar.Quadratic(1.0) + ar.SoftL1(0.05, width=0.02) + ar.FactorPenalty(0.1)
    sweep = ar.SweepConfig(
        template="nodes",
        data=ar.DataConfig(source=str(folder / "panel")),
        trial=ar.TrialConfig(
            cost=cost,
            scoring=ar.ScoringConfig(cost=cost, metric="corr"),
            model=ar.ModelConfig(depth=2, width=32),
            training=ar.TrainingConfig(epochs=EPOCHS, patience=EPOCHS, eras_per_batch=8),
            split=ar.SplitConfig(folds=1, embargo=2),
            members=2,
        ),
        space=ar.Space({"training.optimiser.learning_rate": ar.Float(5e-4, 2e-2, log=True)}),
        arms=ARMS,
        search=ar.SearchConfig(trials=TRIALS, initial_points=TRIALS),
        scheduler=ar.SchedulerConfig(name="fifo"),
        resources=ar.ResourceConfig(checkpoint_every=2, **resources),
        holdout=ar.HoldoutConfig(eras=12, members=1),
    )
    return run_sweep(
        sweep,
        name="nodes",
        storage=folder / "runs",
        address=cluster.address,
        tracking_uri=f"sqlite:///{folder / 'mlflow.db'}",
        progress=watch,
    )


def require_whole(result):
    """Every trial ran to its end, once, and every epoch of it was told of once."""
    assert Counter(result.trials["arm"]) == dict.fromkeys(ARMS, TRIALS)
    assert set(result.trials["state"]) == {"complete"}
    assert set(result.comparison["arm"]) == set(ARMS)
    steps = {}
    (segment,) = (result.folder / "spool").glob("events-*.jsonl")
    for line in segment.read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "metrics" and not event["key"].endswith("-final"):
            steps.setdefault(event["key"], []).append(event["step"])
    assert steps == {f"{arm}-{n}": list(range(1, EPOCHS + 1)) for arm in ARMS for n in range(TRIALS)}


def test_a_node_that_is_lost_costs_time_alone(cluster, tmp_path):
    lost = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()

    def lose(nodes):
        if lost.node_id in nodes:
            cluster.remove_node(lost, allow_graceful=False)
            return True
        return False

    watch = Watch({1: lose})
    result = swept(cluster, tmp_path, watch)
    assert not watch.events
    assert {cluster.head_node.node_id, lost.node_id} <= watch.nodes  # trials were spread
    assert any("its worker was lost" in line for line in watch.warnings)
    require_whole(result)


def test_a_node_that_joins_is_used(cluster, tmp_path):
    joined = []

    def join(nodes):
        joined.append(cluster.add_node(num_cpus=1))
        return True

    watch = Watch({1: join})
    result = swept(cluster, tmp_path, watch)
    assert watch.nodes == {cluster.head_node.node_id, joined[0].node_id}
    assert not watch.warnings
    require_whole(result)
