import math

import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from alignray.errors import ConfigurationError
from alignray.search import FEWEST_FOR_IMPORTANCE, SAMPLERS, Choice, Float, Int, SearchConfig, Space, open_studies

ARMS = ("aligned", "misaligned", "fenchel_young", "mse")
SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True),
        "family": Choice(("linear", "mlp")),
        "depth": Int(1, 5, when={"family": ("mlp",)}),
        "decay": Float(0.0, 1.0),
    }
)
TEMPLATE = {"rate": 0.01, "family": "mlp", "depth": 2, "decay": 0.5}


@pytest.fixture
def journal(tmp_path):
    return tmp_path / "optuna.journal"


def reopen(journal, arms=ARMS, *, space=SPACE, template=TEMPLATE, direction=1, **config):
    config = {"trials": 8, "initial_points": 3, **config}
    return open_studies(
        journal,
        sweep="demo",
        sweep_id="1",
        arms=arms,
        space=space,
        template=template,
        config=SearchConfig(**config),
        metrics={"score": direction},
    )


def one(journal, **options):
    return reopen(journal, ("aligned",), **options)["aligned"]


def as_optuna_has_it(journal, arm="aligned"):
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    return optuna.load_study(study_name=f"demo/{arm}", storage=storage).get_trials()


def score_of(values):
    return -(math.log10(values["rate"] / 0.1) ** 2) - values["decay"]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "grid"])
@pytest.mark.parametrize("template", [TEMPLATE, {"family": "linear"}, {}], ids=["whole", "part", "empty"])
def test_every_arm_begins_at_the_same_points_the_template_first(journal, sampler, template):
    studies = reopen(journal, sampler=sampler, template=template)
    points = {arm: [study.ask() for _ in range(3)] for arm, study in studies.items()}
    first = [proposal.values for proposal in points["aligned"]]
    assert template.items() <= first[0].items()
    for arm in ARMS:
        assert [proposal.values for proposal in points[arm]] == first
        assert [proposal.number for proposal in points[arm]] == [0, 1, 2]
        assert [proposal.key for proposal in points[arm]] == [f"{arm}-{number}" for number in range(3)]
    if template == TEMPLATE:
        assert len({str(values) for values in first}) == 3


def test_the_initial_points_depend_on_the_seed_but_for_the_template(tmp_path):
    first, other = (
        [study.ask().values for _ in range(3)]
        for study in (one(tmp_path / "0.journal", seed=0), one(tmp_path / "1.journal", seed=1))
    )
    assert first[0] == other[0] == TEMPLATE
    assert first[1:] != other[1:]


def test_the_initial_points_stay_the_same_however_the_arms_have_scored(journal):
    studies = reopen(journal)
    points = {}
    for worth, (arm, study) in enumerate(studies.items()):
        points[arm] = []
        for number in range(3):
            points[arm].append(study.ask().values)
            study.complete(number, worth * number - 1.0)
    assert all(points[arm] == points["aligned"] for arm in ARMS)


def test_no_more_initial_points_than_trials(journal):
    study = one(journal, trials=1, initial_points=4)
    study.ask()
    assert [trial.state for trial in as_optuna_has_it(journal)] == [TrialState.RUNNING]


def run_some(journal, count, *, reopened, **options):
    """Ask and tell so many trials, with the study opened anew before each or not; their values."""
    study = one(journal, **options)
    seen = []
    for number in range(count):
        if reopened:
            study = one(journal, **options)
        proposal = study.ask()
        assert proposal.number == number
        seen.append(dict(proposal.values))
        if number % 4 == 3:
            study.fail(number, "made to")
        elif number % 3 == 2:
            study.report(number, 1, score_of(proposal.values))
            study.prune(number)
        else:
            study.complete(number, score_of(proposal.values))
    return seen


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_study_reopened_between_proposals_proposes_the_same(tmp_path, sampler):
    kept = run_some(tmp_path / "kept", 9, reopened=False, sampler=sampler, trials=9)
    again = run_some(tmp_path / "again", 9, reopened=True, sampler=sampler, trials=9)
    assert kept == again
    assert len({str(values) for values in kept}) >= 8  # a Gaussian process may go to a corner twice


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_proposals_depend_on_the_seed(tmp_path, sampler):
    first = run_some(tmp_path / "0", 6, reopened=False, sampler=sampler, seed=0)
    other = run_some(tmp_path / "1", 6, reopened=False, sampler=sampler, seed=1)
    if sampler == "grid":  # the same points in another order
        assert first != other
        return
    assert first[0] == other[0] == TEMPLATE
    assert all(values not in first for values in other[1:])


def test_proposals_depend_on_what_the_trials_before_scored(tmp_path):
    """TPE moves to where scores were high; the seed alone does not decide."""

    def last(folder, sign):
        study = one(folder, trials=12, initial_points=8)
        for number in range(11):
            proposal = study.ask()
            study.complete(number, sign * math.log10(proposal.values["rate"]))
        return study.ask().values["rate"]

    assert last(tmp_path / "high", 1) > 10 * last(tmp_path / "low", -1)


def test_one_arm_learns_nothing_from_another(tmp_path):
    alone = run_some(tmp_path / "alone", 8, reopened=False)
    studies = reopen(tmp_path / "beside")
    for number in range(8):
        studies["mse"].ask()
        studies["mse"].complete(number, 100.0 + number)
    assert run_some(tmp_path / "beside", 8, reopened=False) == alone


def test_a_search_without_initial_points_but_the_template_goes_on(journal):
    study = one(journal, initial_points=1)
    values = [study.ask().values for _ in range(3)]  # all at once: nothing has ended when the others are proposed
    assert values[0] == TEMPLATE
    assert len({str(point) for point in values}) == 3


def test_each_end_is_told_to_optuna_as_what_it_was(journal):
    study = one(journal)
    for number in range(4):
        study.ask()
        study.report(number, 1, 0.1 * number)
    study.complete(0, 0.7)
    study.prune(1)
    study.fail(2, "loss is not finite")
    trials = as_optuna_has_it(journal)
    assert [trial.state for trial in trials] == [
        TrialState.COMPLETE,
        TrialState.PRUNED,
        TrialState.FAIL,
        TrialState.RUNNING,
    ]
    assert trials[0].value == 0.7
    assert trials[2].value is None
    rows = one(journal).rows()
    assert [(row.arm, row.number, row.state, row.epochs) for row in rows] == [
        ("aligned", 0, "complete", 1),
        ("aligned", 1, "pruned", 1),
        ("aligned", 2, "failed", 1),
        ("aligned", 3, "running", 1),
    ]
    assert [row.value for row in rows] == pytest.approx([0.7, 0.1, 0.2, 0.3])
    assert [row.reason for row in rows] == [None, None, "loss is not finite", None]
    assert [trial.params for trial in trials] == [row.values for row in rows]


def test_a_study_begins_empty(journal):
    study = one(journal)
    assert (study.rows(), study.proposed, study.interrupted(), study.best()) == ([], 0, [], None)
    study.ask()
    assert (len(study.rows()), study.proposed) == (1, 1)
    assert study.rows()[0].value is None
    assert study.rows()[0].epochs == 0


def test_a_trial_that_was_stopped_is_never_the_best(journal):
    study = one(journal)
    for number, score in enumerate((0.1, 0.9, 0.2, 0.95)):
        study.ask()
        study.report(number, 1, score)
    study.prune(1)
    study.fail(3, "lost")
    assert study.best() is None
    study.complete(0, 0.1)
    study.complete(2, 0.2)
    best = study.best()
    assert best.number == 2
    assert best.values == study.rows()[2].values


@pytest.mark.parametrize(("direction", "best"), [(1, 1), (-1, 2)])
def test_the_best_follows_the_direction_and_the_first_of_equals(journal, direction, best):
    study = one(journal, direction=direction)
    for number, score in enumerate((0.3, 0.9, -0.5, 0.9, -0.5)):
        study.ask()
        study.complete(number, score)
    assert study.maximises == (direction > 0)
    assert study.best().number == best
    assert one(journal, direction=direction).best().number == best


def test_tpe_minimises_where_less_is_better(journal):
    study = one(journal, direction=-1, trials=30, initial_points=8)
    rates = []
    for number in range(24):
        rates.append(study.ask().values["rate"])
        study.complete(number, math.log10(rates[-1]))
    early, late = (sum(map(math.log10, part)) / 8 for part in (rates[:8], rates[16:]))
    assert late < early - 0.5


def test_an_epoch_that_is_recorded_is_left_as_it_is(journal):
    study = one(journal)
    study.ask()
    study.report(0, 1, 0.1)
    study.report(0, 2, 0.2)
    before = journal.read_bytes()
    for epoch in (1, 2):
        study.report(0, epoch, 0.9)  # the trial was started again from an earlier checkpoint
    assert journal.read_bytes() == before
    study.report(0, 3, 0.3)
    assert as_optuna_has_it(journal)[0].intermediate_values == {1: 0.1, 2: 0.2, 3: 0.3}
    assert study.rows()[0].epochs == 3
    assert study.rows()[0].value == 0.3


def test_what_was_interrupted_is_what_has_not_ended(journal):
    study = one(journal)
    proposals = [study.ask() for _ in range(5)]
    study.complete(0, 1.0)
    study.prune(1)
    study.fail(3, "no")
    assert one(journal).interrupted() == [proposals[2], proposals[4]]
    assert one(journal).proposed == 5


@given(cut=st.integers(1, 400))
def test_a_journal_cut_short_by_a_crash_costs_its_last_line_alone(tmp_path_factory, cut):
    journal = tmp_path_factory.mktemp("cut") / "optuna.journal"
    study = one(journal)
    for number in range(2):
        study.ask()
        study.report(number, 1, 0.5)
    study.complete(0, 0.5)
    content = journal.read_bytes()
    lines = content.splitlines(keepends=True)
    left = len(content) - min(cut, sum(map(len, lines[-4:])))
    journal.write_bytes(content[:left])

    study = one(journal)
    assert journal.read_bytes() == content[: content.rfind(b"\n", 0, left) + 1]  # whole lines only
    for row in study.rows():
        if row.state == "running":
            study.report(row.number, 1, 0.5)
            study.report(row.number, 2, 0.6)
            study.complete(row.number, 0.6)
    study.ask()
    rows = one(journal).rows()
    assert [row.state for row in rows] == ["complete"] * (len(rows) - 1) + ["running"]
    assert not journal.with_name("optuna.journal.lock").is_symlink()


def test_opening_again_adds_nothing(journal):
    reopen(journal)
    before = journal.read_bytes()
    reopen(journal)
    assert journal.read_bytes() == before


def test_looking_writes_nothing(journal):
    def look():
        return open_studies(
            journal,
            sweep="demo",
            sweep_id="1",
            arms=ARMS,
            space=SPACE,
            template=TEMPLATE,
            config=SearchConfig(trials=8, initial_points=8),
            metrics={"score": 1},
            create=False,
        )

    assert look() == {}
    assert not journal.exists()
    reopen(journal, ("aligned",))["aligned"].ask()
    before = journal.read_bytes()
    studies = look()
    assert set(studies) == {"aligned"}  # the others have not begun
    assert [row.state for row in studies["aligned"].rows()] == ["running"]
    assert journal.read_bytes() == before


def test_studies_are_named_for_the_dashboard(journal):
    reopen(journal)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(journal)))
    assert set(optuna.get_all_study_names(storage)) == {f"demo/{arm}" for arm in ARMS}


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"trials": 0}, r"search\.trials: .*at least 1, got 0"),
        ({"sampler": "best"}, r"search\.sampler: .*tpe, cmaes, gp, random, qmc, grid, got 'best'"),
        ({"seed": -1}, r"search\.seed: .*at least 0, got -1"),
        ({"lag": -1}, r"search\.lag: .*at least 0, got -1"),
        ({"grid_points": 0}, r"search\.grid_points: .*at least 1, got 0"),
        ({"initial_points": 0}, r"search\.initial_points: .*at least 1, got 0"),
    ],
)
def test_search_configurations_that_are_refused(config, complaint):
    with pytest.raises(ConfigurationError, match=complaint):
        SearchConfig(**config)


def test_what_epochs_took_adds_up_and_an_epoch_trained_again_counts_once(journal):
    study = one(journal)
    number = study.ask().number
    study.report(number, 1, 0.1, {"network": 2.0, "solver": 1.0})
    again = one(journal)
    again.report(number, 1, 0.1, {"network": 9.0, "solver": 9.0})
    again.report(number, 2, 0.2, {"network": 3.0, "solver": 0.5})
    (row,) = one(journal).rows()
    assert row.seconds == {"network": 5.0, "solver": 1.5}


def test_the_field_that_scores_depend_on_is_the_important_one(journal):
    study = one(journal, trials=60, sampler="random", initial_points=1)
    for _ in range(60):
        proposal = study.ask()
        study.complete(proposal.number, proposal.values["decay"] + 0.01 * math.log10(proposal.values["rate"]))
    importance = study.importance()
    assert max(importance, key=importance.get) == "decay"
    assert sum(importance.values()) == pytest.approx(1.0)
    assert set(importance) <= set(SPACE.distributions)


def test_few_trials_say_nothing_of_importance(journal):
    study = one(journal)
    for _ in range(FEWEST_FOR_IMPORTANCE - 1):
        study.complete(study.ask().number, 0.1)
    assert study.importance() == {}
