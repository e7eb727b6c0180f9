import random
from types import SimpleNamespace

import pytest

from alignray.search import Proposal
from alignray.sweep import SchedulerConfig
from alignray.sweep.schedulers import Halving, MedianStopping, PerArmScheduler, rule_of

CONTINUE, STOP = "CONTINUE", "STOP"


def trial(arm, number):
    return SimpleNamespace(trial_id=f"{arm}{number}", config={"proposal": Proposal(arm, number, {})})


NAMES = ("asha", "hyperband", "median", "fifo")


def scheduler(arms=("mse", "aligned"), *, name="asha", epochs=8, direction=1, grace=1, reduction=2, curves=None):
    config = SchedulerConfig(name=name, grace_epochs=grace, reduction=reduction)
    return PerArmScheduler(config, curves or {arm: {} for arm in arms}, epochs=epochs, direction=direction)


def decide(halving, one, epoch, score):
    return halving.on_trial_result(None, one, {"epoch": epoch, "score": score})


def test_a_poor_trial_is_stopped_and_a_good_one_goes_on():
    halving = scheduler()
    assert decide(halving, trial("mse", 0), 1, 0.5) == CONTINUE
    assert decide(halving, trial("mse", 1), 1, 0.1) == STOP
    assert decide(halving, trial("mse", 2), 1, 0.6) == CONTINUE
    assert decide(halving, trial("mse", 3), 1, 0.2) == STOP


def test_less_is_better_where_the_direction_says_so():
    halving = scheduler(direction=-1)
    assert decide(halving, trial("mse", 0), 1, 0.5) == CONTINUE
    assert decide(halving, trial("mse", 1), 1, 0.9) == STOP
    assert decide(halving, trial("mse", 2), 1, 0.1) == CONTINUE


def test_nobody_is_stopped_before_the_grace_is_over():
    halving = scheduler(grace=3)
    for number in range(5):
        for epoch in (1, 2):
            assert decide(halving, trial("mse", number), epoch, -number) == CONTINUE
    assert decide(halving, trial("mse", 0), 3, 0.0) == CONTINUE
    assert decide(halving, trial("mse", 4), 3, -4.0) == STOP


def test_a_grace_longer_than_the_trial_is_cut_to_it():
    halving = scheduler(epochs=2, grace=9)
    assert decide(halving, trial("mse", 0), 1, 0.0) == CONTINUE


def arrivals(arm, seed, trials=8, epochs=8):
    """Results of an arm's trials, in an order in which they might arrive."""
    dice = random.Random(seed)
    quality = [dice.random() for _ in range(trials)]
    left = [(number, 1) for number in range(trials)]
    while left:
        number, epoch = left.pop(dice.randrange(len(left)))
        yield arm, number, epoch, quality[number] + 0.1 * dice.random()
        if epoch < epochs:
            left.append((number, epoch + 1))


def run(halving, results):
    """The decisions, by arm; a trial that was stopped sends nothing more."""
    decisions, stopped = {}, set()
    for arm, number, epoch, score in results:
        if (arm, number) in stopped:
            continue
        one = trial(arm, number)
        decision = decide(halving, one, epoch, score)
        decisions.setdefault(arm, []).append((number, epoch, decision))
        if decision == STOP:
            stopped.add((arm, number))
            halving.on_trial_complete(None, one, {"epoch": epoch, "score": score})
    return decisions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lead", [-100.0, 0.0, 100.0])
@pytest.mark.parametrize("name", NAMES)
def test_what_one_arm_scores_decides_nothing_in_another(name, seed, lead):
    of_mse = list(arrivals("mse", seed))
    of_other = [(arm, number, epoch, score + lead) for arm, number, epoch, score in arrivals("aligned", seed + 99)]
    dice, queues, mixed = random.Random(seed), [list(of_mse), list(of_other)], []
    while any(queues):
        mixed.append(dice.choice([queue for queue in queues if queue]).pop(0))
    together = run(scheduler(name=name), mixed)
    assert together["mse"] == run(scheduler(name=name), of_mse)["mse"]
    assert together["aligned"] == run(scheduler(name=name), of_other)["aligned"]
    decisions = {decision for _, _, decision in together["mse"]}
    assert decisions == ({CONTINUE} if name == "fifo" else {CONTINUE, STOP})


def test_a_trial_that_failed_without_a_score_disturbs_nothing():
    halving = scheduler()
    halving.on_trial_complete(None, trial("mse", 0), {"epoch": 0, "failed": "not finite", "done": True})
    assert decide(halving, trial("mse", 1), 1, 0.1) == CONTINUE


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("direction", [1, -1])
def test_a_sweep_that_goes_on_decides_as_one_that_never_stopped(name, seed, direction):
    """What was reported before the driver died is all that the schedulers need."""
    results = list(arrivals("mse", seed, trials=20))
    died = len(results) // 2
    first = scheduler(("mse",), name=name, direction=direction)
    before = run(first, results[:died])["mse"]
    curves, stopped = {}, {number for number, _, decision in before if decision == STOP}
    for (_, number, epoch, score), (at, when, _) in zip(
        [one for one in results[:died] if (one[1], one[2]) in {(n, e) for n, e, _ in before}], before, strict=True
    ):
        assert (number, epoch) == (at, when)
        curves.setdefault(number, {})[epoch] = score
    rest = [one for one in results[died:] if one[1] not in stopped]
    again = scheduler(("mse",), name=name, direction=direction, curves={"mse": curves})
    assert run(again, rest) == run(first, rest)


@pytest.mark.parametrize("name", NAMES)
def test_an_epoch_that_a_trial_repeats_says_nothing_new(name):
    results = list(arrivals("mse", 3, trials=12))
    once, twice = scheduler(name=name), scheduler(name=name)
    decided = run(once, results)["mse"]
    going = iter(decided)
    for _, number, epoch, score in results:
        if (number, epoch) not in {(n, e) for n, e, _ in decided}:
            continue
        assert next(going) == (number, epoch, decide(twice, trial("mse", number), epoch, score))
        for earlier in range(1, epoch + 1):  # from the checkpoint on, with whatever luck
            assert decide(twice, trial("mse", number), earlier, 1e9) == CONTINUE


def test_a_trial_is_measured_at_the_rungs_alone_and_once():
    halving = Halving(epochs=27, grace=1, reduction=3, brackets=False)
    for number in range(4):
        assert halving.goes_on(number, 1, number)
    assert not halving.goes_on(4, 1, 1.9)
    assert halving.goes_on(0, 2, -9)  # no rung
    assert halving.goes_on(3, 4, 5)  # it missed epoch 3: the first to be at that rung
    assert halving.goes_on(3, 5, -9)
    assert not halving.goes_on(2, 3, 4)
    assert halving.goes_on(5, 1, 9)  # and what was scored at epoch 3 is not asked of epoch 1


@pytest.mark.parametrize(("epochs", "grace", "reduction"), [(27, 1, 3), (64, 4, 2), (30, 4, 3), (4, 4, 2)])
def test_hyperband_gives_its_brackets_about_the_same_epochs(epochs, grace, reduction):
    halving = Halving(epochs=epochs, grace=grace, reduction=reduction, brackets=True)
    trials = 600
    brackets = [halving.bracket(number) for number in range(trials)]
    rungs, least = [], grace
    while least < epochs:
        rungs.append(least)
        least *= reduction
    spent = [0.0] * (max(brackets) + 1)
    for bracket in brackets:
        left = [*rungs[bracket:], epochs]
        spent[bracket] += sum((b - a) * reduction**-i for i, (a, b) in enumerate(zip([0, *left], left, strict=False)))
    assert set(brackets) == set(range(len(rungs) + 1 if grace < epochs else 2))
    assert max(spent) < 2.5 * min(spent)
    # Early on too: no bracket waits for its first trial until the others have many.
    assert set(brackets[: 4 * reduction ** len(rungs)]) == set(brackets)


def test_the_last_bracket_of_hyperband_stops_nobody():
    halving = Halving(epochs=8, grace=2, reduction=2, brackets=True)
    last = [number for number in range(60) if halving.bracket(number) == 2]
    assert last
    for place, number in enumerate(last):
        assert all(halving.goes_on(number, epoch, -place) for epoch in range(1, 8))


def test_the_median_of_the_others_means_stops_a_trial():
    rule = MedianStopping(grace=2)
    for number, score in enumerate((1.0, 2.0, 3.0)):
        for epoch in (1, 2, 3):
            assert rule.goes_on(number, epoch, score)
    assert rule.goes_on(3, 1, 0.0)  # its grace
    assert rule.goes_on(3, 2, 2.0)
    assert not rule.goes_on(3, 3, 1.99)
    assert rule.goes_on(4, 4, -9.0)  # nobody else has been there


def test_the_rule_of_a_short_trial_keeps_its_grace_within_it():
    for name in NAMES:
        rule = rule_of(SchedulerConfig(name=name, grace_epochs=50), epochs=3)
        assert all(rule.goes_on(number, epoch, -number) for number in range(8) for epoch in (1, 2))
