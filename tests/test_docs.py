"""Every Python snippet and every command of the documentation runs."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# What makes a sweep of the documentation small enough for a test: the same command otherwise.
SMALL = shlex.split("--trials 1 --set trial.training.epochs=2 --set trial.members=1 --set holdout.members=1")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def commands() -> list[tuple[str, str]]:
    lines = [(page.name, line) for page in PAGES for block in blocks(page, "sh") for line in block.splitlines()]
    return [(page, line) for page, line in lines if line.startswith("alignray ")]


def alignray(line: str, folder: Path, timeout: float = 240) -> subprocess.CompletedProcess[str]:
    words = shlex.split(line)[1:]
    if words[0] == "run" and "--dry-run" not in words:
        words += SMALL
    return subprocess.run(
        [sys.executable, "-m", "alignray", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the README's first sweep was run, small, and the page's own sweep lies as a file."""
    folder = tmp_path_factory.mktemp("docs")
    (sweep,) = (block for block in blocks(ROOT / "docs" / "sweeps.md", "python") if block.startswith("# my_sweep.py"))
    (folder / "my_sweep.py").write_text(sweep)
    done = alignray("alignray run quickstart --name first", folder)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.ray
@pytest.mark.parametrize(
    ("page", "line"),
    [
        (page, line)
        for page, line in commands()
        if not line.startswith(("alignray ui", "alignray run quickstart --name first", "alignray doctor"))
    ],
)
def test_command_runs(page: str, line: str, workplace: Path) -> None:
    if "--address" in line:
        pytest.skip("needs a cluster that was started by hand; tests/sweep covers --address")
    done = alignray(line, workplace)
    assert done.returncode == 0, f"{page}: {line}\n{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.ray
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, workplace: Path) -> None:
    for block in blocks(page, "python"):
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", block],
            cwd=workplace,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, f"{block}\n{done.stderr}"


def test_every_page_is_linked_and_every_link_leads_somewhere() -> None:
    linked: set[Path] = set()
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
            linked.add((page.parent / target).resolve())
    assert set(PAGES) - linked <= {ROOT / "README.md"}


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = {
        line.split()[1]
        for page in PAGES
        for block in blocks(page, "sh")
        for line in block.splitlines()
        if line.startswith("make ")
    }
    assert {"sweep", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
