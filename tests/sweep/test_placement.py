"""Where a panel is placed, and that no worker of a real Ray cluster holds a copy of it."""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from alignray.data import Panel, Schema, Shard, open_shards, regroup, write_shards
from alignray.sweep import Silent, place
from alignray.sweep.placement import InStore, OnDisk

pytestmark = pytest.mark.ray

MB = 1_000_000
STORE = 80 * MB  # Ray's least is 75 MiB
COPIES = 0.05


def make_panel(megabytes, d=200):
    """Eras of 500 rows in one shard, with names that a worker could copy by accident."""
    rng = np.random.default_rng(0)
    eras = max(2, megabytes * MB // (500 * (d + 4 + 32)))
    N = 500 * eras
    features = tuple(f"feature_{column}" for column in range(d))
    schema = Schema(era="era", target="target", id="id", features=features, factors=features, bins=5)
    shard = Shard(
        eras=tuple(f"{era:04d}" for era in range(eras)),
        offsets=500 * np.arange(eras + 1),
        features=rng.integers(0, 5, (N, d), np.int8),
        factors=None,
        target=rng.standard_normal(N, np.float32),
        ids=np.array([f"n{row:07d}" for row in range(N)]),
    )
    return Panel(schema, (shard,))


@pytest.fixture(scope="module")
def cluster():
    """Two workers at a time, and an object store that holds 48 MB of panels."""
    with pytest.MonkeyPatch.context() as patched:
        for name, value in (("RAY_USAGE_STATS_ENABLED", "0"), ("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")):
            patched.setenv(name, value)
        import ray

        ray.init(
            address="local",
            num_cpus=2,
            object_store_memory=STORE,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
        # Workers cannot import a test's module.
        ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
        yield
        ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
        ray.shutdown()


class Told(Silent):
    def __init__(self):
        self.lines = []

    def warn(self, text):
        self.lines.append(text)


class Worker:
    """Fetches a panel and reads it whole, as a trial does. Runs in a process of Ray's."""

    def __init__(self, warm_up):
        self.read(warm_up)  # imports, threads, the allocators' first pages
        self.before = self.private()

    @staticmethod
    def private():
        """The bytes that this process shares with no other."""
        lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
        return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))

    def read(self, placed):
        """Read every array, and say which can be written to or belong to this process."""
        self.panel = placed.fetch()
        wrong = []
        for shard in self.panel.shards:
            for name in ("features", "target", "ids"):
                array = getattr(shard, name)
                if array is None:
                    continue
                for page in range(0, array.nbytes, 4096):
                    array.reshape(-1).view(np.uint8)[page]
                if array.flags.writeable or array.flags.owndata:
                    wrong.append(name)
        return os.getpid(), wrong

    def growth(self):
        return self.private() - self.before

    def facts(self):
        return self.panel.digest, self.panel.eras


def in_two_workers(placed, warm_up):
    """What two processes find: processes, arrays that are not mapped, private growth in bytes, digests and eras."""
    import ray

    workers = [ray.remote(num_cpus=1)(Worker).remote(warm_up) for _ in range(2)]
    try:
        read = ray.get([worker.read.remote(placed) for worker in workers])
        growth = ray.get([worker.growth.remote() for worker in workers])  # once both have read: shared is shared
        facts = ray.get([worker.facts.remote() for worker in workers])
    finally:
        for worker in workers:
            ray.kill(worker)
    assert len({process for process, _ in read}) == 2
    return [wrong for _, wrong in read], growth, facts


def placed_alone(panel, folder, progress=None):
    return place({"searched": panel}, folder, progress or Silent())["searched"]


def test_workers_map_the_object_store(cluster, tmp_path):
    panel, told = make_panel(40), Told()
    placed = placed_alone(panel, tmp_path / "shards", told)
    assert isinstance(placed, InStore)
    assert not told.lines
    assert not (tmp_path / "shards").exists()
    wrong, growth, facts = in_two_workers(placed, placed_alone(make_panel(1), tmp_path))
    assert wrong == [[], []]
    assert max(growth) <= COPIES * panel.nbytes
    assert facts == [(panel.digest, panel.eras)] * 2


def test_a_panel_from_disk_that_the_store_cannot_hold_is_mapped_where_it_lies(cluster, tmp_path):
    panel, told = make_panel(60), Told()
    opened = open_shards(write_shards(panel, tmp_path / "panel", eras_per_shard=50))
    searched = opened.cut(0, opened.num_eras - 30)
    placed = placed_alone(searched, tmp_path / "shards", told)
    assert isinstance(placed, OnDisk)
    assert not (tmp_path / "shards").exists()
    (line,) = told.lines
    assert "room for 0.048 GB" in line
    assert str(tmp_path / "panel") in line
    warm_up = open_shards(write_shards(make_panel(1), tmp_path / "small", eras_per_shard=50))
    wrong, growth, facts = in_two_workers(placed, OnDisk(warm_up.origin))
    assert wrong == [[], []]
    assert max(growth) <= COPIES * panel.nbytes
    assert facts == [(searched.digest, searched.eras)] * 2


def test_a_panel_in_memory_that_the_store_cannot_hold_is_written_once(cluster, tmp_path):
    panel, told = make_panel(60), Told()
    searched, holdout = panel.cut(0, panel.num_eras - 20), panel.cut(panel.num_eras - 10, panel.num_eras)
    panels = {"searched": searched, "holdout": holdout}
    first = place(panels, tmp_path / "shards", told)
    (line,) = told.lines
    assert str(tmp_path / "shards" / "searched") in line
    assert {name: placed.fetch().digest for name, placed in first.items()} == {
        "searched": searched.digest,
        "holdout": holdout.digest,
    }
    written = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")}
    assert place(panels, tmp_path / "shards", told) == first  # as a sweep that is resumed does
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.arrow")} == written


def test_panels_share_the_room(cluster, tmp_path):
    panels = {"searched": make_panel(30), "holdout": make_panel(30)}
    assert all(isinstance(placed, OnDisk) for placed in place(panels, tmp_path, Silent()).values())
    assert isinstance(placed_alone(panels["searched"], tmp_path), InStore)


def test_long_shards_are_cut_and_pythons_strings_become_numpys(cluster, tmp_path):
    panel = make_panel(12, d=20)
    (shard,) = panel.shards
    assert len(shard.eras) > 256
    texts = Shard(**{name: getattr(shard, name) for name in Shard.__slots__} | {"ids": shard.ids.astype(object)})
    fetched = placed_alone(Panel(panel.schema, (texts,)), tmp_path).fetch()
    assert max(len(shard.eras) for shard in fetched.shards) == 256
    assert all(shard.ids.dtype.kind == "U" and not shard.ids.flags.writeable for shard in fetched.shards)
    assert fetched.digest == panel.digest


def test_a_panel_knows_where_it_was_opened_until_its_shards_are_others(tmp_path):
    panel = make_panel(1)
    assert panel.origin is None
    opened = open_shards(write_shards(panel, tmp_path / "panel", eras_per_shard=2))
    assert opened.origin == (str(tmp_path / "panel"), 0, panel.num_eras)
    part = opened.cut(2, 7).cut(1, 3)
    assert part.origin == (str(tmp_path / "panel"), 3, 5)
    assert OnDisk(part.origin).fetch().digest == part.digest
    assert regroup(opened, 3).origin is None
    assert Panel(opened.schema, opened.shards).origin is None
