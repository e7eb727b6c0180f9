import random
from types import SimpleNamespace

import pytest

from alignray.search import Proposal
from alignray.sweep import SchedulerConfig
from alignray.sweep.searcher import PerArmScheduler

CONTINUE, STOP = "CONTINUE", "STOP"


def trial(arm, number):
    return SimpleNamespace(trial_id=f"{arm}{number}", config={"proposal": Proposal(arm, number, {})})


def scheduler(arms=("mse", "aligned"), *, epochs=8, direction=1, grace=1, reduction=2):
    config = SchedulerConfig(name="asha", grace_epochs=grace, reduction=reduction)
    return PerArmScheduler(config, arms, epochs=epochs, direction=direction)


def decide(halving, one, epoch, score):
    return halving.on_trial_result(None, one, {"epoch": epoch, "score": score})


def test_a_poor_trial_is_stopped_and_a_good_one_goes_on():
    halving = scheduler()
    for number in range(4):
        halving.on_trial_add(None, trial("mse", number))
    assert decide(halving, trial("mse", 0), 1, 0.5) == CONTINUE
    assert decide(halving, trial("mse", 1), 1, 0.1) == STOP
    assert decide(halving, trial("mse", 2), 1, 0.6) == CONTINUE
    assert decide(halving, trial("mse", 3), 1, 0.2) == STOP


def test_less_is_better_where_the_direction_says_so():
    halving = scheduler(direction=-1)
    for number in range(3):
        halving.on_trial_add(None, trial("mse", number))
    assert decide(halving, trial("mse", 0), 1, 0.5) == CONTINUE
    assert decide(halving, trial("mse", 1), 1, 0.9) == STOP
    assert decide(halving, trial("mse", 2), 1, 0.1) == CONTINUE


def test_nobody_is_stopped_before_the_grace_is_over():
    halving = scheduler(grace=3)
    for number in range(5):
        halving.on_trial_add(None, trial("mse", number))
        for epoch in (1, 2):
            assert decide(halving, trial("mse", number), epoch, -number) == CONTINUE
    assert decide(halving, trial("mse", 0), 3, 0.0) == CONTINUE
    assert decide(halving, trial("mse", 4), 3, -4.0) == STOP


def test_a_grace_longer_than_the_trial_is_cut_to_it():
    halving = scheduler(epochs=2, grace=9)
    halving.on_trial_add(None, trial("mse", 0))
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
    decisions, stopped, known = {}, set(), set()
    for arm, number, epoch, score in results:
        if (arm, number) in stopped:
            continue
        one = trial(arm, number)
        if (arm, number) not in known:
            known.add((arm, number))
            halving.on_trial_add(None, one)
        decision = decide(halving, one, epoch, score)
        decisions.setdefault(arm, []).append((number, epoch, decision))
        if decision == STOP:
            stopped.add((arm, number))
            halving.on_trial_complete(None, one, {"epoch": epoch, "score": score})
    return decisions


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("lead", [-100.0, 0.0, 100.0])
def test_what_one_arm_scores_decides_nothing_in_another(seed, lead):
    of_mse = list(arrivals("mse", seed))
    of_other = [(arm, number, epoch, score + lead) for arm, number, epoch, score in arrivals("aligned", seed + 99)]
    dice, queues, mixed = random.Random(seed), [list(of_mse), list(of_other)], []
    while any(queues):
        mixed.append(dice.choice([queue for queue in queues if queue]).pop(0))
    together = run(scheduler(), mixed)
    assert together["mse"] == run(scheduler(), of_mse)["mse"]
    assert together["aligned"] == run(scheduler(), of_other)["aligned"]
    assert {decision for _, _, decision in together["mse"]} == {CONTINUE, STOP}  # it does halve


def test_a_trial_that_failed_without_a_score_disturbs_nothing():
    halving = scheduler()
    for number in range(2):
        halving.on_trial_add(None, trial("mse", number))
    halving.on_trial_complete(None, trial("mse", 0), {"epoch": 0, "failed": "not finite", "done": True})
    halving.on_trial_remove(None, trial("mse", 0))
    assert decide(halving, trial("mse", 1), 1, 0.1) == CONTINUE
