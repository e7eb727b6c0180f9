import heapq
import math
import pickle
import random

import cloudpickle
import pytest
from ray.tune.search import Searcher

from alignray.checkpoint import Checkpoint, CheckpointHistory
from alignray.errors import StorageError
from alignray.search import Float, SearchConfig, Space, open_studies
from alignray.sweep.searcher import ArmSearcher

ARMS = ("aligned", "misaligned", "fenchel_young", "mse")


class Sweep:
    """Real studies and a searcher on them, with all that it calls written down."""

    def __init__(self, folder, *, trials=3, arms=ARMS, direction=1, max_failures=0, metrics=None, **config):
        self.room = 100
        self.folder, self.trials, self.arms, self.direction = folder, trials, arms, direction
        self.max_failures, self.metrics = max_failures, metrics or {"score": direction}
        self.config = SearchConfig(**{"trials": trials, "initial_points": 2, **config})
        self.reopen()

    def reopen(self):
        self.studies = self.open()
        self.started, self.ended, self.snapshots, self.setbacks = [], [], [], []
        self.searcher = ArmSearcher(
            self.studies,
            trials=self.trials,
            metric="decision_corr",
            room=lambda: self.room,
            on_start=self.on_start,
            on_end=self.on_end,
            on_change=self.snapshots.append,
            on_setback=lambda proposal, reason: self.setbacks.append((proposal.key, reason)),
            history=lambda key: CheckpointHistory(self.folder / key, keep=2),
            max_failures=self.max_failures,
        )

    def open(self):
        return open_studies(
            self.folder / "optuna.journal",
            sweep="demo",
            sweep_id="1",
            arms=self.arms,
            space=Space({"x": Float(0.0, 1.0)}),
            template={"x": 0.5},
            config=self.config,
            metrics=self.metrics,
        )

    def row(self, proposal):
        """The trial as the journal on disk has it."""
        return self.open()[proposal.arm].rows()[proposal.number]

    def on_start(self, proposal):
        assert self.row(proposal).state == "running"  # in the journal before anybody hears of it
        self.started.append(proposal)

    def on_end(self, proposal, state, reason):
        assert (self.row(proposal).state, self.row(proposal).reason) == (state, reason)
        self.ended.append((proposal.key, state, reason))

    def suggest(self, trial_id):
        suggestion = self.searcher.suggest(trial_id)
        return suggestion["proposal"] if isinstance(suggestion, dict) else None

    def states(self):
        return {arm: [row.state for row in study.rows()] for arm, study in self.open().items()}


@pytest.fixture
def sweep(tmp_path):
    return Sweep(tmp_path)


def result(epoch, score, **more):
    return {"epoch": epoch, "score": score, "done": False, "finished": False, **more}


def test_arms_take_turns_and_get_the_same_number_of_trials(sweep):
    assert sweep.searcher.remaining == 12
    proposals = []
    while (proposal := sweep.suggest(f"t{len(proposals)}")) is not None:
        proposals.append(proposal)
        counts = [study.proposed for study in sweep.studies.values()]
        assert max(counts) - min(counts) <= 1
        assert sweep.searcher.remaining == 12 - len(proposals)
    assert [proposal.arm for proposal in proposals] == list(ARMS) * 3
    assert len({proposal.key for proposal in proposals}) == 12
    assert sweep.started == proposals
    for number in range(2):
        assert len({proposal.values["x"] for proposal in proposals if proposal.number == number}) == 1
    assert sweep.searcher.suggest("more") is None  # those that run may have to be started again
    for number in range(12):
        sweep.searcher.on_trial_complete(f"t{number}", result(2, 0.2, done=True, finished=True))
    assert sweep.searcher.suggest("more") == Searcher.FINISHED


def busy(sweep, workers, dice):
    """The share of the workers' time that trials take which last from 30 to 50 epochs."""
    now, spent, count, running = 0.0, 0.0, 0, []
    while True:
        while len(running) < workers and (proposal := sweep.suggest(f"t{count}")) is not None:
            lasts = 40 + 10 * dice.uniform(-1, 1)
            heapq.heappush(running, (now + lasts, f"t{count}", proposal.values["x"]))
            spent, count = spent + lasts, count + 1
        if not running:
            return spent / (now * workers), count
        now, trial_id, x = heapq.heappop(running)
        sweep.searcher.on_trial_complete(trial_id, result(1, x, done=True, finished=True))


def test_workers_do_not_wait_where_the_lag_is_twice_what_runs_at_once(tmp_path):
    shares = {}
    for lag in (0, 1, 4):
        (tmp_path / str(lag)).mkdir()
        sweep = Sweep(tmp_path / str(lag), trials=16, arms=("mse", "aligned"), lag=lag)
        shares[lag], count = busy(sweep, 4, random.Random(0))
        assert count == 32
    assert shares[4] > shares[0] - 0.02
    assert shares[1] < 0.7


def test_an_arm_that_waits_lets_another_go_first(tmp_path):
    sweep = Sweep(tmp_path, trials=4, arms=("mse", "aligned"), lag=1)
    first = [sweep.suggest(f"t{number}") for number in range(4)]  # the points that all arms share wait for none
    assert sweep.searcher.suggest("t4") is None
    assert sweep.searcher.remaining == 4
    for number in (1, 3):
        assert first[number].arm == "aligned"
        sweep.searcher.on_trial_complete(f"t{number}", result(1, 0.1, done=True, finished=True))
    assert sweep.suggest("t4").key == "aligned-2"
    assert sweep.searcher.suggest("t5") is None


@pytest.mark.parametrize("seed", range(3))
def test_whatever_the_order_and_the_ends_every_trial_is_accounted_for(tmp_path, seed):
    sweep, dice = Sweep(tmp_path, trials=4), random.Random(seed)
    running, expected, count = {}, {}, 0
    while True:
        if len(running) < 3 and (proposal := sweep.suggest(f"t{count}")) is not None:
            running[f"t{count}"] = proposal
            count += 1
            continue
        if not running:
            break
        trial_id = dice.choice(sorted(running))
        proposal = running.pop(trial_id)
        score = dice.random()
        sweep.searcher.on_trial_result(trial_id, result(1, score))
        end = dice.choice(["complete", "pruned", "failed", "lost", "nan"])
        if end == "complete":
            sweep.searcher.on_trial_complete(trial_id, result(2, score + 1, done=True, finished=True))
        elif end == "pruned":
            sweep.searcher.on_trial_complete(trial_id, result(2, score + 2))
        elif end == "failed":
            sweep.searcher.on_trial_complete(trial_id, {"epoch": 2, "failed": "no", "done": True, "finished": False})
        elif end == "lost":
            sweep.searcher.on_trial_complete(trial_id, error=True)
        else:
            sweep.searcher.on_trial_complete(trial_id, result(2, math.nan, done=True, finished=True))
        expected[proposal.key] = end if end in ("complete", "pruned") else "failed"
    assert sweep.searcher.remaining == 0
    states = sweep.states()
    assert all(len(of_arm) == 4 for of_arm in states.values())
    assert {f"{arm}-{n}": state for arm, of_arm in states.items() for n, state in enumerate(of_arm)} == expected
    assert {key: state for key, state, _ in sweep.ended} == expected
    assert len(sweep.ended) == 16
    for arm, study in sweep.open().items():
        best = study.best()
        assert best is None or expected[f"{arm}-{best.number}"] == "complete"
    assert sweep.snapshots[-1].ended == sweep.snapshots[-1].total == 16


def test_a_trial_that_ran_to_its_own_end_is_complete_with_its_score(sweep):
    proposal = sweep.suggest("t")
    for epoch in (1, 2):
        sweep.searcher.on_trial_result("t", result(epoch, epoch / 10))
    sweep.searcher.on_trial_complete("t", result(3, 0.3, done=True, finished=True))
    row = sweep.row(proposal)
    assert (row.state, row.value, row.epochs) == ("complete", 0.3, 3)
    assert sweep.ended == [("aligned-0", "complete", None)]


def test_a_trial_that_the_scheduler_stopped_is_pruned_with_its_last_score(sweep):
    proposal = sweep.suggest("t")
    sweep.searcher.on_trial_result("t", result(1, 0.1))
    sweep.searcher.on_trial_complete("t", result(2, 0.2))
    row = sweep.row(proposal)
    assert (row.state, row.value, row.epochs) == ("pruned", 0.2, 2)
    assert sweep.open()["aligned"].best() is None


@pytest.mark.parametrize(
    ("last", "error", "reason"),
    [
        (result(2, math.nan, done=True, finished=True), False, "without a score"),
        (result(2, math.inf, done=True, finished=True), False, "without a score"),
        ({"epoch": 1, "done": True, "finished": True}, False, "without a score"),
        (None, False, "without a score"),
        ({}, False, "without a score"),
        ({"epoch": 1, "done": True, "finished": False, "failed": "a loss is not finite"}, False, "a loss is not fin"),
        (None, True, "max_failures"),
        (result(2, 0.9), True, "max_failures"),
    ],
)
def test_a_trial_without_an_end_of_its_own_failed_with_a_reason(sweep, last, error, reason):
    proposal = sweep.suggest("t")
    sweep.searcher.on_trial_result("t", result(1, 0.5))
    sweep.searcher.on_trial_complete("t", last, error=error)
    row = sweep.row(proposal)
    assert row.state == "failed"
    assert reason in row.reason
    assert sweep.ended == [("aligned-0", "failed", row.reason)]
    assert sweep.open()["aligned"].best() is None


def test_of_several_metrics_each_must_have_a_number(tmp_path):
    sweep = Sweep(tmp_path, trials=3, arms=("mse",), metrics={"decision_corr": 1, "exposure": -1})
    for number, metrics in enumerate([{"exposure": 2.0, "fnc": math.nan}, {"exposure": math.nan}, {}]):
        sweep.suggest(f"t{number}")
        last = result(3, 0.3, done=True, finished=True, metrics={"decision_corr": 0.3, **metrics})
        sweep.searcher.on_trial_complete(f"t{number}", last)
    rows = sweep.open()["mse"].rows()
    assert [row.state for row in rows] == ["complete", "failed", "failed"]
    assert rows[0].scores == {"decision_corr": 0.3, "exposure": 2.0}
    assert rows[1].reason == "it ended without a score by exposure"


def test_an_epoch_without_a_score_is_not_recorded(sweep):
    proposal = sweep.suggest("t")
    sweep.searcher.on_trial_result("t", result(1, math.nan))
    sweep.searcher.on_trial_result("t", {"epoch": 1, "failed": "no"})
    assert sweep.row(proposal).epochs == 0
    sweep.searcher.on_trial_result("t", result(1, 0.1))
    sweep.searcher.on_trial_result("t", result(1, 0.9))  # a retried trial repeats it
    assert (sweep.row(proposal).epochs, sweep.row(proposal).value) == (1, 0.1)


def test_the_checkpoints_of_a_trial_go_when_it_has_ended(sweep, tmp_path):
    for proposal in (sweep.suggest("t0"), sweep.suggest("t1")):
        for epoch in (5, 10):
            CheckpointHistory(tmp_path / proposal.key, keep=2).save(Checkpoint({}, {}), epoch)
    sweep.searcher.on_trial_complete("t0", result(2, 0.2))
    assert not (tmp_path / "aligned-0").exists()
    assert len(list((tmp_path / "misaligned-0").iterdir())) == 2


def test_a_damaged_checkpoint_is_told_of(sweep):
    proposal = sweep.suggest("t")
    sweep.searcher.on_trial_result("t", result(6, 0.1) | {"damaged": "it goes on after epoch 5"})
    sweep.searcher.on_trial_result("t", result(7, 0.1))
    assert sweep.setbacks == [(proposal.key, "it goes on after epoch 5")]


def test_what_was_interrupted_comes_first_and_nothing_is_proposed_twice(sweep):
    proposals = [sweep.suggest(f"t{number}") for number in range(6)]
    sweep.searcher.on_trial_complete("t0", result(2, 0.2, done=True, finished=True))
    sweep.searcher.on_trial_complete("t2", result(2, 0.2))
    sweep.searcher.on_trial_complete("t3", error=True)
    sweep.reopen()  # the driver died
    assert sweep.searcher.remaining == 12 - 3
    again = [sweep.suggest(f"u{number}") for number in range(9)]
    interrupted = [proposals[1], proposals[4], proposals[5]]
    assert sorted(p.key for p in again[:3]) == sorted(p.key for p in interrupted)
    assert {p.key: p.values for p in again[:3]} == {p.key: p.values for p in interrupted}
    assert sweep.suggest("more") is None
    assert {arm: len(states) for arm, states in sweep.states().items()} == dict.fromkeys(ARMS, 3)


def test_no_more_trials_run_than_there_is_room_for_and_more_once_there_is(sweep):
    sweep.room = 2
    assert all(sweep.suggest(f"t{number}") for number in range(2))
    assert sweep.searcher.suggest("t2") is None
    sweep.searcher.on_trial_complete("t0", result(2, 0.2))
    assert sweep.suggest("t2")
    sweep.room = 5  # a node has joined
    assert all(sweep.suggest(f"t{number}") for number in range(3, 6))
    sweep.room = 3  # and has gone
    assert sweep.searcher.suggest("t6") is None
    sweep.reopen()  # those that were interrupted wait for room as well
    sweep.room = 1
    assert sweep.suggest("u0")
    assert sweep.searcher.suggest("u1") is None


def test_it_has_nothing_to_save(sweep, tmp_path):
    sweep.suggest("t")
    before = sorted(tmp_path.iterdir())
    sweep.searcher.save(str(tmp_path / "state.pkl"))
    sweep.searcher.restore(str(tmp_path / "state.pkl"))
    assert sorted(tmp_path.iterdir()) == before
    for pickler in (pickle, cloudpickle):
        assert vars(pickle.loads(pickler.dumps(sweep.searcher))) == {}


def test_a_lost_trial_is_started_again_as_often_as_it_may_be(tmp_path):
    sweep = Sweep(tmp_path, trials=1, arms=("mse",), max_failures=2)
    proposal = sweep.suggest("t0")
    for number in range(1, 3):
        sweep.searcher.on_trial_complete(f"t{number - 1}", error=True)
        assert sweep.row(proposal).state == "running"
        assert sweep.suggest(f"t{number}") == proposal
    told = [("mse-0", "its worker was lost; it goes on from its last checkpoint")] * 2
    assert (sweep.setbacks, sweep.ended) == (told, [])
    sweep.searcher.on_trial_complete("t2", result(3, 0.4), error=True)
    assert sweep.row(proposal).state == "failed"
    assert sweep.setbacks == told
    assert sweep.searcher.suggest("more") == Searcher.FINISHED


def test_what_cannot_be_kept_stops_the_search_and_leaves_the_trial_running(sweep):
    proposal = sweep.suggest("t")
    with pytest.raises(StorageError, match="No space left"):
        sweep.searcher.on_trial_result("t", {"epoch": 1, "finished": False, "unwritable": "No space left on device"})
    assert isinstance(sweep.searcher.failure, StorageError)
    assert sweep.row(proposal).state == "running"
    assert sweep.ended == []


@pytest.mark.parametrize(("direction", "best"), [(1, 0.4), (-1, 0.1)])
def test_the_standing_counts_states_and_keeps_the_best_of_each_arm(tmp_path, direction, best):
    sweep = Sweep(tmp_path, arms=("mse", "aligned"), direction=direction)
    for number, score in enumerate((0.2, 0.3, 0.4, 0.9, 0.1)):
        sweep.suggest(f"t{number}")
        sweep.searcher.on_trial_result(f"t{number}", result(1, score))
    sweep.searcher.on_trial_complete("t0", result(2, 0.2, done=True, finished=True))
    sweep.searcher.on_trial_complete("t1", error=True)
    sweep.searcher.on_trial_complete("t2", result(2, 0.4))
    last = sweep.snapshots[-1]
    assert (last.total, last.ended, last.metric) == (6, 3, "decision_corr")
    assert last.counts == {"mse": {"complete": 1, "pruned": 1, "running": 1}, "aligned": {"failed": 1, "running": 1}}
    assert last.best == {"mse": best, "aligned": 0.9}  # what failed is left out
