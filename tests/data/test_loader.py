import gc
import threading
import time
import weakref
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from alignray.data import Loader, Panel, Schema, Shard, code_moments, loader, regroup
from alignray.data.batch import Batch, assemble
from alignray.errors import InvalidArgumentError

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
KINDS = ("codes", "some factors", "coded factors apart", "plain factors apart", "numbers")


def make_panel(kind="codes", lengths=(3, 5, 2, 4, 1, 6), d=4, bins=5, seed=0):
    """Six eras in three shards, some targets unknown; features and factors of every kind that there is."""
    rng = np.random.default_rng(seed)
    N = sum(lengths)
    features = tuple(f"feature_{column}" for column in range(d))
    apart = {
        "coded factors apart": rng.integers(0, bins, (N, 2), np.int8),
        "plain factors apart": rng.standard_normal((N, 2), np.float32),
    }
    factors = features[::-2] if kind == "some factors" else ("beta", "size") if kind in apart else features
    coded = kind != "numbers"
    schema = Schema(
        era="era", target="target", id=None, features=features, factors=factors, bins=bins if coded else None
    )
    shard = Shard(
        eras=tuple(f"{era:04d}" for era in range(len(lengths))),
        offsets=np.concatenate([[0], np.cumsum(lengths)]),
        features=rng.integers(0, bins, (N, d), np.int8) if coded else rng.standard_normal((N, d), np.float32),
        factors=apart.get(kind),
        target=np.where(rng.random(N) < 0.2, np.nan, rng.standard_normal(N)).astype(np.float32),
        ids=None,
    )
    return regroup(Panel(schema, (shard,)), 2)


def assert_same(batch: Batch, other: Batch):
    for field in fields(Batch):
        ours, theirs = getattr(batch, field.name), getattr(other, field.name)
        assert ours.dtype == theirs.dtype, field.name
        assert ours.device.type == theirs.device.type, field.name
        assert ours.shape == theirs.shape, field.name
        assert torch.equal(ours, theirs), field.name


def loaders():
    return {thread for thread in threading.enumerate() if thread.name.startswith("alignray-ahead")}


@pytest.fixture(params=[0, 1 << 30], ids=["in a thread", "inline"])
def any_thread(request, monkeypatch):
    monkeypatch.setattr(loader, "_NUMBERS_WORTH_A_THREAD", request.param)


@pytest.fixture
def thread(monkeypatch):
    """As for large eras."""
    monkeypatch.setattr(loader, "_NUMBERS_WORTH_A_THREAD", 0)


GROUPS = [[4, 0], [2], [5, 1, 3], [0]]


@pytest.mark.parametrize("kind", KINDS)
def test_batches_come_in_order_and_are_those_of_the_panel(kind, device, any_thread):
    panel = make_panel(kind)
    batches = list(Loader(panel, GROUPS, device))
    assert len(batches) == len(GROUPS)
    for batch, group in zip(batches, GROUPS, strict=True):
        assert_same(batch, panel.batch(group, device))


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=7), max_size=5), st.sampled_from(KINDS))
def test_a_resident_panel_gives_the_same_batches(groups, kind):
    """On the CPU, where the same code runs as on a GPU."""
    panel = make_panel(kind)
    resident = loader.Resident(panel, torch.device("cpu"))
    for group in groups:
        assert_same(resident.batch(np.array(group)), panel.batch(group))


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_decoded_on_a_device_is_what_is_assembled(kind):
    panel = make_panel(kind)
    eras = np.array([3, 1, 4])
    assert_same(
        panel.stored(eras).decoded(panel.layout), assemble(eras, [panel.spans[era] for era in eras], panel.layout)
    )


@pytest.mark.parametrize("bins", range(2, 12))
def test_every_code_is_its_distance_from_the_mean_in_standard_deviations(bins):
    mean, std = code_moments(bins)
    codes = np.arange(bins, dtype=np.int8)[:, None]
    panel = make_panel(lengths=(bins,), d=1, bins=bins)
    panel = Panel(panel.schema, (replace(panel.shards[0], features=codes),))
    expected = torch.from_numpy(codes).float().sub_(mean).div_(std)
    assert torch.equal(panel.batch([0]).features[0], expected)


def test_factors_that_are_the_features_take_no_memory():
    for batch in (*Loader(make_panel(), GROUPS, "cpu"), make_panel().stored([0, 2]).decoded(make_panel().layout)):
        assert batch.factors is batch.features


def test_an_era_goes_to_the_device_once():
    panel = make_panel("coded factors apart")
    resident = loader.Resident(panel, torch.device("cpu"))
    before = panel.batch([1, 2])
    resident.batch(np.array([2, 1]))
    for shard in panel.shards:
        for array in (shard.features, shard.factors, shard.target):
            array[...] = 3
    assert_same(resident.batch(np.array([1, 2])), before)
    assert_same(resident.batch(np.array([0, 3])), panel.batch([0, 3]))  # they came after the change


@pytest.mark.parametrize(("free", "stays"), [(1 << 30, True), (1 << 10, False)])
def test_a_panel_stays_on_a_gpu_that_has_room_until_it_is_gone(free, stays, monkeypatch):
    asked = []

    def mem_get_info(device):
        asked.append(device)
        return free, 1 << 40

    monkeypatch.setattr(torch.cuda, "mem_get_info", mem_get_info)
    panel = make_panel(lengths=(100,) * 6)
    resident = loader._resident(panel, torch.device("cpu"))
    assert (resident is not None) == stays
    assert loader._resident(panel, torch.device("cpu")) is resident
    assert len(asked) == 1  # whatever else is on the device by the next trial
    gone = weakref.ref(panel)
    del panel, resident
    gc.collect()
    assert gone() is None


@CUDA
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("share", [1.0, 0.0], ids=["resident", "streamed"])
def test_both_ways_to_a_gpu_give_the_batches_of_the_panel(kind, share, monkeypatch):
    monkeypatch.setattr(loader, "_SHARE_OF_FREE_MEMORY", share)
    panel, device = make_panel(kind, lengths=(300, 500, 200, 400, 1, 600), d=40), torch.device("cuda")
    for _ in range(2):
        for batch, group in zip(Loader(panel, GROUPS, device), GROUPS, strict=True):
            assert_same(batch, panel.batch(group, device))


@CUDA
def test_a_resident_panel_is_not_read_again(monkeypatch):
    panel = make_panel()
    list(Loader(panel, GROUPS, "cuda"))
    monkeypatch.setattr(loader.Resident, "_bring", lambda *_: pytest.fail("an era travelled twice"))
    list(Loader(panel, GROUPS, "cuda"))


class Watched:
    """A panel whose batches are slow to make, and that tells which were begun and are done."""

    def __init__(self, seconds=0.0):
        self.begun, self.done, self.seconds = [], [threading.Event() for _ in range(9)], seconds
        self.num_rows = self.num_features = self.num_eras = 1

    def batch(self, eras, device):
        (era,) = eras
        self.begun.append(era)
        time.sleep(self.seconds)
        self.done[era].set()
        return era


def test_one_batch_is_made_ahead_and_no_more(thread):
    panel = Watched()
    for era in Loader(panel, [[era] for era in range(6)], "cpu"):
        if era < 5:
            assert panel.done[era + 1].wait(10)  # while this one is used
        time.sleep(0.01)
        assert panel.begun == list(range(min(era + 2, 6)))


def test_waits_are_counted_and_work_is_not(thread):
    waiting = Loader(Watched(seconds=0.02), [[0], [1], [2]], "cpu")
    assert list(waiting) == [0, 1, 2]
    assert waiting.waited >= 0.06 * 0.9
    panel = Watched(seconds=0.02)
    working = Loader(panel, [[0], [1], [2]], "cpu")
    first = next(working)
    before = working.waited
    assert panel.done[first + 1].wait(10)
    time.sleep(0.05)
    assert working.waited == before


def test_what_goes_wrong_is_raised_where_the_batch_is_asked_for(any_thread):
    batches = Loader(make_panel(), [[0], [1], [6], [2]], "cpu")
    next(batches)
    next(batches)
    with pytest.raises(InvalidArgumentError, match="holds 6, expected indices from 0 to 5"):
        next(batches)
    assert not list(batches)
    assert not loaders()


@pytest.mark.parametrize("end", ["exhausted", "closed", "collected", "never begun"])
def test_the_thread_ends_with_the_loader(end, thread):
    before = loaders()
    batches = Loader(make_panel(), GROUPS, "cpu")
    if end != "never begun":
        next(batches)
        assert loaders() - before
    if end == "exhausted":
        list(batches)
    elif end == "closed":
        batches.close()
        assert not list(batches)
    del batches
    gc.collect()
    assert not loaders() - before


def test_shards_that_cannot_be_written_to_are_read(device):
    panel = make_panel("plain factors apart")
    for shard in panel.shards:
        for array in (shard.features, shard.factors, shard.target):
            array.flags.writeable = False
    for batch, group in zip(Loader(panel, GROUPS, device), GROUPS, strict=True):
        assert_same(batch, panel.batch(group, device))
    assert_same(loader.Resident(panel, torch.device("cpu")).batch(np.array([2, 0])), panel.batch([2, 0]))


def test_small_eras_are_not_worth_a_thread():
    small, large = make_panel(), make_panel(lengths=(700,) * 6, d=100)
    for panel, threads in ((small, 0), (large, 1)):
        before = loaders()
        batches = Loader(panel, GROUPS, "cpu")
        next(batches)
        assert len(loaders() - before) == threads
        batches.close()


def test_a_panel_stays_on_a_gpu_that_is_four_times_as_free(monkeypatch):
    panel = make_panel()
    size = sum(shard.nbytes - (0 if shard.ids is None else shard.ids.nbytes) for shard in panel.shards)
    for free, there in ((4 * size, size), (4 * size - 4, 0)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10 * size))
        assert loader.resident_bytes(panel, torch.device("cuda")) == there
