import json
import subprocess

import pytest

from alignray.configuration import to_plain
from alignray.errors import SweepError
from alignray.launch import find_sweep
from alignray.search import Float, SearchConfig, Space
from alignray.sweep import Manifest, SchedulerConfig


@pytest.fixture
def manifest(sweep, panel):
    return Manifest.of("demo", sweep, panel, "sqlite:////tmp/mlflow.db")


def test_it_says_what_runs_on_which_data_where(manifest, sweep, panel):
    assert (manifest.name, manifest.config) == ("demo", sweep)
    assert manifest.data["digest"] == panel.digest
    assert (manifest.data["eras"], manifest.data["rows"]) == (panel.num_eras, panel.num_rows)
    assert (manifest.data["first_era"], manifest.data["last_era"]) == (panel.eras[0], panel.eras[-1])
    assert {"python", "torch", "ray", "optuna", "mlflow", "alignray"} <= set(manifest.versions)
    assert manifest.devices["cpus"] >= 1
    assert manifest.holdout_looks == {}


def test_two_sweeps_of_one_name_are_told_apart(manifest, sweep, panel):
    assert Manifest.of("demo", sweep, panel, manifest.tracking_uri).id != manifest.id


def test_what_was_saved_is_loaded(manifest, tmp_path):
    manifest.save(tmp_path)
    assert Manifest.load(tmp_path) == manifest
    looked = manifest.with_look("mse").with_look("mse").with_look("aligned")
    looked.save(tmp_path)
    assert Manifest.load(tmp_path).holdout_looks == {"mse": 2, "aligned": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_template_comes_back_from_its_manifest(panel, tmp_path):
    config = find_sweep("quickstart")
    Manifest.of("demo", config, panel, "http://host").save(tmp_path)
    loaded = Manifest.load(tmp_path)
    assert loaded.config == config
    assert to_plain(loaded.config) == to_plain(config)


def test_another_store_changes_nothing_else(manifest):
    other = manifest.with_tracking("http://host")
    assert other.tracking_uri == "http://host"
    assert other.with_tracking(manifest.tracking_uri) == manifest


def test_an_interrupted_save_leaves_the_old_one(manifest, tmp_path, monkeypatch):
    manifest.save(tmp_path)
    monkeypatch.setattr(json, "dumps", lambda *_, **__: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        manifest.with_look("mse").save(tmp_path)
    monkeypatch.undo()
    assert Manifest.load(tmp_path) == manifest


def test_a_sweep_that_is_not_there_is_named_with_those_that_are(manifest, tmp_path):
    with pytest.raises(SweepError, match=r"no sweep 'demo' in .*there are no sweeps there"):
        Manifest.load(tmp_path / "demo")
    for name in ("second", "first"):
        (tmp_path / name).mkdir()
        manifest.save(tmp_path / name)
    with pytest.raises(SweepError, match=r"no sweep 'demo' in .*the sweeps there are first, second"):
        Manifest.load(tmp_path / "demo")


@pytest.mark.parametrize("content", ["", "{", "[]", "5", "null", '"text"', "\xff\xfe", '{"format": 1}', '{"name": 3}'])
def test_a_manifest_that_cannot_be_read_is_refused_in_words(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"manifest|missing|expected"):
        Manifest.load(tmp_path)


def test_a_manifest_of_a_newer_version_is_refused(manifest, tmp_path):
    manifest.save(tmp_path)
    plain = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps({**plain, "format": 99}))
    with pytest.raises(SweepError, match=r"newer alignray; upgrade"):
        Manifest.load(tmp_path)


def test_the_commit_is_that_of_the_working_folder(sweep, panel, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert Manifest.of("demo", sweep, panel, "http://host").git_commit is None

    def git(*arguments):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b", "-c", "commit.gpgsign=false"]
        done = subprocess.run(["git", *identity, *arguments], check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "first")
    commit = git("rev-parse", "HEAD")
    assert Manifest.of("demo", sweep, panel, "http://host").git_commit == commit
    (tmp_path / "file").touch()
    assert Manifest.of("demo", sweep, panel, "http://host").git_commit == f"{commit}+changes"


def test_a_sweep_may_be_extended_and_says_by_what_and_after_which_looks(manifest, tmp_path):
    looked = manifest.with_look("mse").extended(20, None)
    looked.save(tmp_path)
    again = Manifest.load(tmp_path)
    assert again == looked
    assert again.config.search.trials == 20
    (extension,) = again.extensions
    assert (extension.trials, extension.time_budget_s, extension.looks) == (20, None, {"mse": 1})
    assert again.extended(None, 60.0).config.resources.time_budget_s == 60.0
    assert again.extended(None, 60.0).config.search.trials == 20
    assert len(again.extended(30, None).extensions) == 2


def test_nobody_joins_a_population(panel, make_sweep):
    sweep = make_sweep(
        search=SearchConfig(sampler="random"),
        scheduler=SchedulerConfig(name="pbt"),
        space=Space({"training.optimiser.learning_rate": Float(1e-3, 1e-1)}),
    )
    manifest = Manifest.of("demo", sweep, panel, "sqlite:////tmp/mlflow.db")
    assert manifest.extended(8, 60.0).config.resources.time_budget_s == 60.0
    with pytest.raises(SweepError, match=r"expected the 8 of each arm .* got 9; under pbt they are one population"):
        manifest.extended(9, None)


def test_a_look_at_the_holdout_ends_the_search_until_it_is_extended(manifest):
    assert manifest.searching
    looked = manifest.with_look("mse")
    assert not looked.searching
    extended = looked.extended(20, None)
    assert extended.searching
    assert not extended.with_look("mse").searching
    assert extended.with_look("mse").extended(21, None).searching


def test_a_sweep_is_not_made_shorter(manifest):
    with pytest.raises(SweepError, match=r"trials: expected at least the 8 of each arm .*, got 7"):
        manifest.extended(7, None)
