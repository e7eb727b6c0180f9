"""Every numbered equation of docs/theory.md names tests that check it, and these exist."""

from __future__ import annotations

import ast
import re
from itertools import pairwise
from pathlib import Path

ROOT = Path(__file__).parents[1]
PARAGRAPHS = (ROOT / "docs" / "theory.md").read_text().split("\n\n")
EQUATION = re.compile(r"^ {4,}\((\d+)\)  ", re.MULTILINE)
NAME = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def functions(path: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def test_equations_are_numbered_in_order_and_no_other_is_referred_to():
    page = "\n\n".join(PARAGRAPHS)
    numbers = [int(number) for number in EQUATION.findall(page)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > 20
    assert {int(number) for number in re.findall(r"(?<!\w)\((\d+)\)", page)} == set(numbers)


def test_every_equation_names_a_test():
    for paragraph, following in pairwise(PARAGRAPHS):
        for number in EQUATION.findall(paragraph):
            assert following.split()[:2] == ["Checked", "by"], f"equation ({number}) is followed by {following!r}"
            assert NAME.search(following), f"equation ({number}) names no test"


def test_every_test_that_is_named_exists():
    for paragraph in PARAGRAPHS:
        names = NAME.findall(paragraph)
        assert len(names) == paragraph.count("`tests/"), f"not of the form `tests/file.py::test_name`: {paragraph}"
        for file, test in names:
            assert test in functions(ROOT / file), f"{file} has no {test}"
