"""The user's own code: imported once, again when it changed, and before the configuration that names it."""

import pickle
import subprocess
import sys

import pytest

import alignray as ar
from alignray.costs import TERMS
from alignray.errors import SweepError
from alignray.imports import Carried, UserCode, import_code, module_name

TERM = """
import alignray as ar
from alignray.costs import TERMS

class Sextic(ar.SeparableTerm):
    name = "sextic"

    def phi(self, x):
        return x**6

TERMS["sextic"] = Sextic
"""


@pytest.fixture
def file(tmp_path):
    file = tmp_path / "a_users_term.py"
    file.write_text(TERM)
    yield file
    sys.modules.pop("a_users_term", None)
    TERMS.pop("sextic", None)


def test_a_file_is_imported_once_and_again_when_it_changed(file):
    import_code(str(file))
    first = TERMS["sextic"]
    assert sys.modules["a_users_term"].Sextic is first
    import_code(str(file))
    assert TERMS["sextic"] is first
    file.write_text(TERM + "# changed\n")
    import_code(str(file))
    assert TERMS["sextic"] is not first


def test_another_process_imports_the_code_before_the_configuration(file):
    code = UserCode.of((str(file),))
    code.load()
    carried = Carried(
        ar.TrialConfig(cost=ar.Quadratic(1.0) + TERMS["sextic"](0.5), scoring=ar.ScoringConfig(cost=ar.Quadratic(1.0))),
        code,
    )
    (sent := file.with_suffix(".sent")).write_bytes(pickle.dumps(carried))
    file.unlink()  # another machine has no such file
    program = f"import pickle; print(pickle.load(open({str(sent)!r}, 'rb')).config.cost.strengths)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{'quadratic.strength': 1.0, 'sextic.strength': 0.5}"


def test_a_file_that_fails_leaves_no_module_behind(file):
    file.write_text("1 / 0")
    with pytest.raises(SweepError, match=r"a_users_term\.py.*ZeroDivisionError"):
        import_code(str(file))
    assert "a_users_term" not in sys.modules


def test_a_file_that_changed_is_recognised(file):
    then = UserCode.of((str(file),)).digests
    UserCode.of((str(file),)).require(then, "first")
    file.write_text(TERM + "# changed\n")
    with pytest.raises(SweepError, match=r"sweep 'first': its code has changed.*a_users_term\.py"):
        UserCode.of((str(file),)).require(then, "first")


@pytest.mark.parametrize("name", ["random.py", "numpy.py", "my-term.py", "1st.py"])
def test_names_that_are_no_modules_or_those_of_others(name, tmp_path):
    (tmp_path / name).touch()
    assert module_name(tmp_path / name) is None
    with pytest.raises(SweepError, match="call the file otherwise"):
        import_code(str(tmp_path / name))
