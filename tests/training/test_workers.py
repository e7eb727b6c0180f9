"""Workers that train together come to what one would alone, to rounding, and to the same bits among themselves."""

from __future__ import annotations

import pytest
import torch
from crew import FAILED, TRAINED, TRIALS, outcome, ragged, together, train

from alignray.errors import InvalidArgumentError
from alignray.training import Workers


@pytest.fixture(scope="module", params=[2, 3])
def crew(request, tmp_path_factory):
    """What each of 2 or 3 processes came to."""
    return together(request.param, tmp_path_factory.mktemp("crew"))


@pytest.mark.parametrize("work", TRAINED)
def test_workers_take_the_steps_of_one(work, crew):
    alone = outcome(work)
    for theirs in (one[work] for one in crew):
        for (loss, failed, residual), (our_loss, our_failed, our_residual) in zip(
            theirs["stats"], alone["stats"], strict=True
        ):
            assert loss == pytest.approx(our_loss, rel=1e-6, abs=1e-8)
            assert failed == our_failed
            assert residual == pytest.approx(our_residual, rel=1e-3, abs=1e-9)
        for name, value in alone["state"].items():
            # float32, through a few dozen steps; Adam divides by gradients that may be small.
            torch.testing.assert_close(theirs["state"][name], value, rtol=0, atol=2e-5 * value.abs().max().item())
    if work == "solves that fail":
        assert all(0 < failed < 60 for _, failed, _ in alone["stats"])


@pytest.mark.parametrize("work", TRAINED)
def test_workers_hold_the_same_bits(work, crew):
    first, *others = (one[work] for one in crew)
    for other in others:
        assert other["stats"] == first["stats"]
        assert all(value.equal(first["state"][name]) for name, value in other["state"].items())


@pytest.mark.parametrize("work", FAILED)
def test_what_one_worker_finds_wrong_all_say_in_the_words_of_one_alone(work, crew):
    alone = outcome(work)
    assert alone["error"].startswith("TrainingError")
    assert [one[work] for one in crew] == [alone] * len(crew)


@pytest.mark.parametrize("work", TRIALS)
def test_a_trial_of_several_workers_is_the_trial_of_one(work, crew):
    alone = outcome(work)
    first, *others = (one[work] for one in crew)
    for epoch, metrics in alone["history"].items():
        assert first["history"][epoch] == pytest.approx(metrics, rel=2e-6, abs=2e-7), epoch
    for one in (first, *others):
        assert one["history"] == first["history"]
        assert list(one["history"]) == list(alone["history"])
        assert one["best_epoch"] == alone["best_epoch"]


def test_every_era_is_one_workers_and_with_it_its_shard():
    panel = ragged(2)  # 12 shards
    eras = [7, 3, 22, 0, 12, 18, 1]
    shares = [Workers(rank, 3).share(panel, eras) for rank in range(3)]
    assert shares == [[0, 3, 4, 5, 6], [1], [2]]
    assert Workers(1, 7).share(panel, eras) == [2, 6]  # too few shards: era by era
    assert Workers().share(panel, eras) == list(range(7))


def test_workers_read_their_own_shards_alone(monkeypatch):
    read: set[int] = set()
    batch = type(ragged()).batch

    def recording(self, eras, device=None):
        read.update(eras)
        return batch(self, eras, device)

    monkeypatch.setattr(type(ragged()), "batch", recording)
    # What the others would add is missing, which is nothing to what is read.
    monkeypatch.setattr("torch.distributed.all_reduce", lambda *given: None)
    train(Workers(1, 2), eras_per_shard=3)
    assert read == {3, 4, 5, 9, 10, 11, 15, 16, 17}


def test_a_penalty_on_derivatives_needs_one_worker():
    with pytest.raises(InvalidArgumentError, match=r"training.sobolev: expected none in a trial of 2 workers, got 0.1"):
        train(Workers(0, 2), sobolev=0.1)
