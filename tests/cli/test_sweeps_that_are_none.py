"""What a user may give as SWEEP: names, modules and files, right and wrong."""

import shutil
import sys

import pytest

from alignray.cli.main import status
from alignray.launch import find_sweep, list_templates

QUICKSTART = list_templates()["quickstart"]


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """An empty folder, and no trace of it left among the modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("a_users"):
            del sys.modules[name]


def complaint(capsys, *arguments):
    assert status(arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


@pytest.mark.parametrize(
    "name",
    ["nosuch", "no.such", "", ".", "..", "a..b", "./x", "a/b", "quick start", "quickstart.py", "-1", "ä", "sys "],
)
def test_a_name_that_means_nothing(capsys, here, name):
    assert repr(name) in complaint(capsys, "run", "--", name)
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("name", ["sys", "os", "json.decoder"])
def test_a_module_that_is_no_sweep(capsys, name):
    assert "def sweep()" in complaint(capsys, "run", name)


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("raise ValueError('one\\ntwo')", "ValueError: one two"),
        ("import alignray as ar\nar.Nonsense", "Nonsense"),
        ("x = 1 +", "SyntaxError"),
        ("x = 1 / 0", "ZeroDivisionError"),
        ("import a_users_other", "a_users_other"),
        ("def sweep(needed):\n    return 1", "needed"),
        ("def sweep():\n    return 1 / 0", "ZeroDivisionError"),
        ("def sweep():\n    import alignray as ar\n    return ar.SweepConfig(nonsense=3)", "nonsense"),
        ("def sweep():\n    import alignray as ar\n    return ar.HoldoutConfig(eras=0)", "holdout.eras"),
        ("sweep = 3", "def sweep()"),
        ("def sweep():\n    return {}", "SweepConfig, got dict"),
    ],
)
def test_code_of_a_user_that_does_not_work(capsys, here, code, said):
    (here / "a_users_sweep.py").write_text(code)
    for name in ("a_users_sweep.py", "a_users_sweep"):
        line = complaint(capsys, "run", name)
        assert said in line
        sys.modules.pop("a_users_sweep", None)


def test_debug_shows_where_the_code_of_a_user_failed(capsys, here):
    (here / "a_users_sweep.py").write_text("def sweep():\n    return one_that_is_not_there")
    assert status(["run", "a_users_sweep.py", "--debug"]) == 2
    said = capsys.readouterr().err
    assert "one_that_is_not_there" in said.splitlines()[-1]
    assert 'a_users_sweep.py", line 2, in sweep' in said


def test_a_template_a_file_and_a_module_may_be_the_same_sweep(here):
    shutil.copy(QUICKSTART, here / "a_users_copy.py")
    (here / "a_users_package").mkdir()
    (here / "a_users_package" / "__init__.py").touch()
    shutil.copy(QUICKSTART, here / "a_users_package" / "inner.py")
    expected = find_sweep("quickstart")
    for name in ("a_users_copy.py", str(here / "a_users_copy.py"), "a_users_copy", "a_users_package.inner"):
        assert find_sweep(name) == expected


def test_templates_are_listed_with_what_they_hold(capsys):
    assert status(["template", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list_templates())
    (line,) = (line for line in lines if line.startswith("quickstart "))
    assert "4 arms × 8 trials" in line
    assert '"' not in line


@pytest.mark.parametrize(
    ("storage", "said"),
    [("/proc/1/below", "/proc/1"), ("file", "file"), ("file/a/b", "file"), ("x" * 300, "xxx")],
)
def test_a_folder_that_cannot_be_written(capsys, here, storage, said):
    (here / "file").touch()
    line = complaint(capsys, "run", "quickstart", "--storage", storage)
    assert said in line
    assert "--storage" in line
    assert [path.name for path in here.iterdir()] == ["file"]


@pytest.mark.parametrize("name", ["a/b", "../x", ".hidden", "-x", "ä", "a b", "x" * 101, "x\n"])
def test_a_name_that_no_folder_should_have(capsys, here, name):
    assert "name: expected" in complaint(capsys, "run", "quickstart", f"--name={name}")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("settings", [["space.model.width.options=5"], ["space.model.depth.log=perhaps"], ["=5"]])
def test_settings_of_the_space_that_do_not_fit(capsys, here, settings):
    line = complaint(capsys, "run", "quickstart", *(f"--set={setting}" for setting in settings))
    assert settings[0].split("=")[0].rpartition(".")[0] in line
    assert list(here.iterdir()) == []
