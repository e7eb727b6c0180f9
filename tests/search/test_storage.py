"""Studies in a PostgreSQL database: the same as in a journal, and what happens when the database goes away."""

import contextlib
import threading
import time

import pytest

from alignray.errors import ConfigurationError, SweepError, WorkError
from alignray.search import Choice, Float, Int, SearchConfig, Space, open_studies, storage

SPACE = Space(
    {
        "rate": Float(1e-4, 1.0, log=True),
        "family": Choice(("linear", "mlp")),
        "depth": Int(1, 3, when={"family": ("mlp",)}),
    }
)


@pytest.fixture
def database(postgres, monkeypatch, request):
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    yield postgres
    with contextlib.suppress(SweepError):
        storage.open_storage(postgres.url, None).engine.dispose()
    storage._open_postgres.cache_clear()


@pytest.fixture
def opened(database, tmp_path, request):
    """Opens the studies of a sweep of this test's own."""

    def studies(sweep=request.node.name, sweep_id="1", url=database.url, create=True, **config):
        return open_studies(
            tmp_path / "optuna.journal",
            sweep=sweep,
            sweep_id=sweep_id,
            arms=("aligned", "mse"),
            space=SPACE,
            template={"rate": 0.01, "family": "linear"},
            config=SearchConfig(storage=url, **config),
            metrics={"score": 1},
            create=create,
        )

    return studies


def search(studies, trials=9):
    for number in range(trials):
        for worth, study in enumerate(studies.values()):
            values = study.ask().values
            study.report(number, 1, values["rate"] / 2)
            if number % 4 == 3:
                study.prune(number)
            elif number == 2:
                study.fail(number, "made to")
            else:
                study.complete(number, worth + values["rate"])
    return {arm: study.rows() for arm, study in studies.items()}


@pytest.mark.parametrize("sampler", ["tpe", "cmaes"])
def test_a_database_holds_what_a_journal_does(opened, sampler):
    in_database, in_journal = search(opened(sampler=sampler)), search(opened(url=None, sampler=sampler))
    assert in_database == in_journal
    again = opened(sampler=sampler)
    assert {arm: study.rows() for arm, study in again.items()} == in_journal
    assert [study.best() for study in again.values()] == [study.best() for study in opened(url=None).values()]


def test_looking_creates_no_study(opened):
    assert opened(create=False) == {}
    search(opened(), trials=2)
    assert set(opened(create=False)) == {"aligned", "mse"}


def test_a_sweep_of_the_same_name_from_another_folder_is_refused(opened):
    search(opened(), trials=1)
    with pytest.raises(SweepError, match=r"another sweep .* already; choose another --name"):
        opened(sweep_id="2")


def test_a_database_that_is_restarted_is_waited_for(opened, database):
    studies = opened()
    search(studies, trials=2)
    database.stop()
    restart = threading.Timer(1.0, database.start)
    restart.start()
    began = time.monotonic()
    proposal = studies["mse"].ask()
    assert time.monotonic() - began > 0.9
    restart.join()
    studies["mse"].complete(2, 0.5)
    assert opened()["mse"].rows()[2].values == proposal.values
    assert len(opened()["mse"].rows()) == 3


def test_a_database_that_stays_away_is_said_to_be_lost_and_the_search_goes_on_later(opened, database, monkeypatch):
    monkeypatch.setattr(storage, "PATIENCE_S", 0.2)
    studies = opened()
    search(studies, trials=2)
    database.stop()
    try:
        with pytest.raises(WorkError, match=r"lost .* resumed") as failure:
            studies["mse"].ask()
        assert database.password not in str(failure.value)
    finally:
        database.start()
    assert [row.state for row in opened()["mse"].rows()] == ["complete", "complete"]
    assert studies["mse"].ask().number == 2


def test_a_database_that_is_not_there_is_an_error_without_the_password(opened, database, monkeypatch):
    with pytest.raises(SweepError, match="cannot be reached"):
        opened(url="postgresql://postgres@127.0.0.1:1/none")
    monkeypatch.setenv("PGPASSWORD", "wrong-secret")
    storage._open_postgres.cache_clear()
    with pytest.raises(SweepError, match="password authentication failed") as failure:
        opened()
    assert "wrong-secret" not in str(failure.value)


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("postgresql://me:secret@host/db", "without a password.*PGPASSWORD"),
        ("postgresql://host/db?user=me&password=secret", "without a password.*PGPASSWORD"),
        ("mysql://me:secret@host/db", "expected postgresql://.*of 'mysql'"),
        ("sqlite:///secret.db", "expected postgresql://.*of 'sqlite'"),
        ("postgresql://host", "expected postgresql://"),
        ("optuna.journal", "expected postgresql://"),
    ],
)
def test_addresses_that_are_refused_without_being_shown(url, complaint):
    with pytest.raises(ConfigurationError, match=complaint) as failure:
        SearchConfig(storage=url)
    assert "secret" not in str(failure.value)
