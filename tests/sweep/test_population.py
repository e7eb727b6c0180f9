"""Population based training decides the same whatever comes first, whoever dies, and wherever it was killed."""

import random
from itertools import count

import pytest
from optuna.storages.journal import JournalStorage
from ray.tune.search import Searcher

from alignray.checkpoint import Checkpoint, CheckpointHistory
from alignray.search import Choice, Float, SearchConfig, Space, open_studies
from alignray.sweep.population import FACTORS, Population
from alignray.sweep.searcher import ArmSearcher

SPACE = Space({"x": Float(0.1, 2.0, log=True), "y": Float(0.0, 1.0), "family": Choice(("linear", "mlp"))})
PERTURBED = {path: SPACE.distributions[path] for path in ("x", "y")}
EPOCHS, EVERY = 9, 3


class Killed(BaseException):
    """The driver is no more."""


class Sweep:
    """Real studies, searcher and checkpoints. What is trained is the list of the values that it was trained under."""

    def __init__(self, folder, *, trials=8, arms=("mse", "aligned"), direction=1, fails=None, max_failures=99, seed=0):
        self.folder, self.trials, self.arms, self.direction = folder, trials, arms, direction
        self.fails, self.max_failures, self.seed = fails or {}, max_failures, seed
        self.ids = count()
        self.reopen()

    def reopen(self):
        self.studies = open_studies(
            self.folder / "optuna.journal",
            sweep="demo",
            sweep_id="1",
            arms=self.arms,
            space=SPACE,
            template={"x": 0.5, "y": 0.5, "family": "mlp"},
            config=SearchConfig(trials=self.trials, sampler="random"),
            metrics={"score": self.direction},
        )
        self.running, self.started, self.ended = {}, [], []
        self.searcher = ArmSearcher(
            self.studies,
            trials=self.trials,
            metric="score",
            room=lambda: 3,
            on_start=self.started.append,
            on_end=lambda proposal, state, reason: self.ended.append((proposal.key, state)),
            on_change=lambda snapshot: None,
            on_setback=lambda proposal, reason: None,
            history=self.history,
            max_failures=self.max_failures,
            populations={arm: self.population(study) for arm, study in self.studies.items()},
        )

    def population(self, study):
        return Population(
            study,
            size=self.trials,
            every=EVERY,
            epochs=EPOCHS,
            perturbed=PERTURBED,
            seed=self.seed,
            history=self.history,
        )

    def history(self, key):
        return CheckpointHistory(self.folder / key, keep=2)

    def start(self):
        """Start what may be started; whether anything runs, and whether it is over."""
        while (suggested := self.searcher.suggest(trial_id := f"t{next(self.ids)}")) is not None:
            if suggested == Searcher.FINISHED:
                return False
            self.running[trial_id] = suggested["proposal"]
        assert self.running
        return True

    def train(self, trial_id):
        """Run a segment on a worker, from the newest checkpoint."""
        proposal = self.running.pop(trial_id)
        checkpoint, _ = self.history(proposal.key).latest()
        state = checkpoint.record["state"] if checkpoint else []
        end = proposal.until or EPOCHS
        while len(state) < end:
            state = [*state, self.in_force(proposal, len(state))]
            if self.fails.get(proposal.key) == len(state):
                failed = {"epoch": len(state), "failed": "no", "done": True, "finished": False}
                return self.searcher.on_trial_complete(trial_id, failed)
        # However it came by it, the state is what its course says.
        assert state == [self.in_force(proposal, epoch) for epoch in range(end)]
        scores = [self.score(state[: epoch + 1]) for epoch in range(end)]
        if proposal.until:
            self.history(proposal.key).save(Checkpoint({}, {"state": state}), end)
        best = (max if self.direction > 0 else min)(scores)
        told = {"epoch": end, "score": best, "latest": scores[-1], "done": True, "finished": end == EPOCHS}
        return self.searcher.on_trial_complete(trial_id, told)

    def in_force(self, proposal, epoch):
        values = dict(proposal.course.values if proposal.course else proposal.values)
        for change in proposal.course.changes if proposal.course else ():
            values |= change.values if change.epoch <= epoch else {}
        return [values["x"], values["y"], values["family"]]

    def score(self, state):
        return random.Random(str(state)).random()

    def result(self):
        return {arm: study.rows() for arm, study in self.studies.items()}


def run(sweep, dice=None, *, loses=0.0, killed=0.0):
    """Run a sweep to its end, what runs ending in any order, workers and drivers dying with some probability."""
    dice = dice or random.Random(0)
    while sweep.start():
        if dice.random() < killed:
            sweep.reopen()
        elif dice.random() < loses:
            trial_id = dice.choice(list(sweep.running))
            sweep.running.pop(trial_id)
            sweep.searcher.on_trial_complete(trial_id, error=True)
        else:
            sweep.train(dice.choice(list(sweep.running)))
    return sweep.result()


@pytest.fixture(scope="module")
def quiet(tmp_path_factory):
    return run(Sweep(tmp_path_factory.mktemp("quiet")))


def test_the_worst_quarter_goes_on_from_the_best_near_its_values(quiet):
    for rows in quiet.values():
        assert [row.state for row in rows] == ["complete"] * 8
        for epoch in (3, 6):
            best_first = sorted(rows, key=lambda row: -row.milestones[epoch])
            takers = {row.number for row in rows if epoch in [exploit.epoch for exploit in row.exploits]}
            assert takers == {row.number for row in best_first[-2:]}
            for number in takers:
                (exploit,) = (each for each in rows[number].exploits if each.epoch == epoch)
                donor = next(row for row in best_first[:2] if row.number == exploit.donor)
                values = dict(donor.values)
                for earlier in donor.exploits:
                    values |= earlier.values if earlier.epoch < epoch else {}
                if not donor.exploits:
                    for path, field in PERTURBED.items():
                        near = [min(max(values[path] * factor, field.low), field.high) for factor in FACTORS]
                        assert exploit.values[path] in near
                    assert rows[number].last["family"] == donor.values["family"] or len(rows[number].exploits) > 1
    of_arms = [[row.exploits for row in rows] for rows in quiet.values()]
    assert of_arms[0] != of_arms[1]


@pytest.mark.parametrize("seed", range(6))
def test_neither_order_nor_lost_workers_nor_killed_drivers_change_anything(seed, quiet, tmp_path):
    dice = random.Random(seed)
    assert run(Sweep(tmp_path), dice, loses=0.2 * (seed % 2), killed=0.2 * (seed // 3)) == quiet


def test_less_is_better_where_the_direction_says_so(tmp_path):
    rows = run(Sweep(tmp_path, arms=("mse",), direction=-1))["mse"]
    for epoch in (3, 6):
        best_first = [row.number for row in sorted(rows, key=lambda row: row.milestones[epoch])]
        takers = {row.number: each.donor for row in rows for each in row.exploits if each.epoch == epoch}
        assert set(takers) == set(best_first[-2:])
        assert set(takers.values()) <= set(best_first[:2])


@pytest.mark.parametrize("seed", range(3))
def test_one_that_fails_is_out_and_nobody_waits_for_it(seed, tmp_path):
    fails = {"mse-0": 2, "mse-3": 5, "mse-5": 6, "aligned-1": 9, **{f"aligned-{n}": 1 for n in (2, 3)}}
    for name in ("once", "again"):
        (tmp_path / name).mkdir()
    once = run(Sweep(tmp_path / "once", fails=fails))
    again = run(Sweep(tmp_path / "again", fails=fails), random.Random(seed), loses=0.1, killed=0.1)
    assert again == once
    states = {f"{arm}-{row.number}": row.state for arm, rows in once.items() for row in rows}
    assert states == {key: "failed" if key in fails else "complete" for key in states}
    gone = {row.number for row in once["mse"] if 6 not in row.milestones}
    assert gone == {0, 3, 5}
    assert all(each.donor not in gone for row in once["mse"] for each in row.exploits if each.epoch == 6)


@pytest.mark.parametrize(("trials", "takers"), [(1, 0), (2, 1), (3, 1), (4, 1), (11, 2)])
def test_however_few_there_are_the_best_take_from_nobody(trials, takers, tmp_path):
    (rows,) = run(Sweep(tmp_path, arms=("mse",), trials=trials)).values()
    for epoch in (3, 6):
        taken = {row.number: each.donor for row in rows for each in row.exploits if each.epoch == epoch}
        assert len(taken) == takers
        assert not set(taken) & set(taken.values())


def test_all_may_fail(tmp_path):
    sweep = Sweep(tmp_path, arms=("mse",), trials=3, fails={f"mse-{number}": 2 for number in range(3)})
    assert [row.state for row in run(sweep)["mse"]] == ["failed"] * 3


def test_a_driver_killed_at_any_write_goes_on_to_the_same(tmp_path, monkeypatch):
    """Each write to the journal and each copy of a checkpoint is the last one once."""
    options = {"arms": ("mse",), "trials": 4, "fails": {"mse-1": 4}}
    left = [10**9]

    def mortal(owner, name):
        whole = getattr(owner, name)

        def write(*args, **kwargs):
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return whole(*args, **kwargs)

        monkeypatch.setattr(owner, name, write)

    for name in ("create_new_trial", "set_trial_user_attr", "set_study_user_attr", "set_trial_state_values"):
        mortal(JournalStorage, name)
    mortal(CheckpointHistory, "hand_to")
    (tmp_path / "quiet").mkdir()
    expected = run(Sweep(tmp_path / "quiet", **options))
    writes = 10**9 - left[0]
    assert writes > 20
    for survived in range(1, writes):  # the first of all makes the study
        folder = tmp_path / str(survived)
        folder.mkdir()
        left[0] = survived
        with pytest.raises(Killed):
            run(Sweep(folder, **options))
        left[0] = 10**9
        sweep = Sweep(folder, **options)
        assert run(sweep) == expected, survived


@pytest.mark.parametrize("harm", ["missing", "damaged"])
def test_a_state_that_is_lost_is_made_again_by_its_course(harm, quiet, tmp_path):
    sweep, dice = Sweep(tmp_path), random.Random(1)
    while sweep.start():
        sweep.train(dice.choice(list(sweep.running)))
        kept = sorted(tmp_path.glob("*/*.safetensors"))
        if kept and dice.random() < 0.5:
            path = dice.choice(kept)
            path.unlink() if harm == "missing" else path.write_bytes(path.read_bytes()[:-9])
    assert sweep.result() == quiet


def test_a_segment_that_is_over_before_its_worker_is_lost_is_not_trained_twice(tmp_path):
    sweep = Sweep(tmp_path, arms=("mse",), trials=2)
    assert sweep.start()
    trial_id, proposal = next(iter(sweep.running.items()))
    state = [sweep.in_force(proposal, epoch) for epoch in range(EVERY)]
    sweep.history(proposal.key).save(Checkpoint({}, {"state": state}), EVERY)
    sweep.running.pop(trial_id)
    sweep.searcher.on_trial_complete(trial_id, error=True)
    assert [row.state for row in run(sweep)["mse"]] == ["complete"] * 2


def test_the_best_of_an_arm_comes_with_its_course(quiet, tmp_path):
    sweep = Sweep(tmp_path)
    run(sweep)
    for arm, study in sweep.studies.items():
        best = study.best()
        row = quiet[arm][best.number]
        assert (best.values, best.until) == (row.values, None)
        assert (best.course is None) == (not row.exploits)
        assert best.course is None or best.course.last == row.last
    taken = [row for rows in quiet.values() for row in rows if row.exploits]
    assert taken
    for row in taken:
        assert row.last != row.values
        assert set(row.last) == set(row.values)
