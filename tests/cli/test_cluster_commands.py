"""What `alignray cluster submit` makes of the command that it is given."""

import click
import pytest

from alignray.cli.cluster import submission


def test_a_command_is_passed_on_as_it_is():
    command = ("run", "quickstart", "--name", "first", "--set", "search.trials=4", "--storage", "/shared/runs")
    sent = submission(command)
    assert (sent.name, sent.storage, sent.command) == ("first", "/shared/runs", command)


def test_resume_is_known_by_the_name_of_its_sweep():
    sent = submission(("resume", "first", "--trials", "9"))
    assert (sent.name, sent.storage, sent.command) == ("first", "runs", ("resume", "first", "--trials", "9"))


@pytest.mark.parametrize(
    ("sweep", "called"), [("quickstart", "quickstart"), ("a/my_sweep.py", "my_sweep"), ("my_pkg.mine", "mine")]
)
def test_a_sweep_without_a_name_gets_one(sweep, called):
    sent = submission(("run", sweep))
    assert sent.name.startswith(f"{called}-20")
    assert sent.command == ("run", sweep, "--name", sent.name)


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("compare", "first"), "expected run or resume, and what they take, got 'compare'"),
        (("run",), "Missing argument 'SWEEP'"),
        (("run", "quickstart", "--trails", "3"), "No such option"),
        (("run", "quickstart", "--address", "auto"), "--address: leave it out"),
        (("run", "quickstart", "--tracking-uri", "http://me:s3cret@mlflow"), "leave the password out"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_sent(command, reason):
    with pytest.raises(click.UsageError) as raised:
        submission(command)
    assert reason in raised.value.format_message()
    assert "s3cret" not in raised.value.format_message()
