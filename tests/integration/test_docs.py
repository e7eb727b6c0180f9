"""Every Python snippet and every command of the documentation runs."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_sweep import ROOT, Demo, environment

PAGES = [ROOT / "README.md", ROOT / "cluster" / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
# Run by test_quickstart.py, on the same sweep.
ELSEWHERE = {
    "alignray run quickstart --name first",
    "alignray resume first",
    "alignray resume first --register first-models",
    "alignray ui first",
    "alignray doctor",
}


# Pages of one whole sweep after another, which take minutes.
SWEEPING = ("scheduling.md", "search.md", "templates.md")


def blocks(page: Path, language: str) -> list[str]:
    return [body for found, body in FENCE.findall(page.read_text()) if found == language]


def commands() -> list[tuple[str, str]]:
    # Those that need a cluster are run by chaos/test_submitted_sweeps.py and the tests in cluster/.
    pages = [page for page in PAGES if page.parent.name != "cluster"]
    lines = [(page.name, line) for page in pages for block in blocks(page, "sh") for line in block.splitlines()]
    return [(page, line) for page, line in lines if line.startswith("alignray ")]


@pytest.fixture(scope="module")
def workplace(demo: Demo) -> Demo:
    """The folder of the sweep that the pages speak of, with the sweep and the panel that they show as files."""
    (sweep,) = (block for block in blocks(ROOT / "docs" / "sweeps.md", "python") if block.startswith("# my_sweep.py"))
    (demo.home / "my_sweep.py").write_text(sweep)
    (panel,) = (block for block in blocks(ROOT / "docs" / "data.md", "python") if "to_parquet" in block)
    (live,) = (block for block in blocks(ROOT / "docs" / "predictions.md", "python") if "to_parquet" in block)
    for made in (panel, live):
        subprocess.run([sys.executable, "-c", made], cwd=demo.home, env=environment(), check=True)
    shutil.copytree(demo.folder, demo.folder.with_name("other"))
    return demo


@pytest.mark.ray
@pytest.mark.parametrize(
    ("page", "line"),
    [
        pytest.param(page, line, marks=pytest.mark.slow if page in SWEEPING else ())
        for page, line in commands()
        if line not in ELSEWHERE
    ],
)
def test_command_runs(page: str, line: str, workplace: Demo) -> None:
    line = line.replace("RUN_ID", workplace.run_id("aligned-final"))
    done = workplace.alignray(*shlex.split(line)[1:])
    assert done.returncode == 0, f"{page}: {line}\n{done.stderr}"
    assert done.stdout.strip()


@pytest.mark.ray
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_snippets_run(page: Path, workplace: Demo) -> None:
    for block in blocks(page, "python"):
        done = subprocess.run(
            # cvxpylayers 1.2.0 calls np.array on tensors, whose __array__ lacks NumPy 2's `copy`.
            [sys.executable, "-W", "error", "-W", "ignore:__array__ implementation:DeprecationWarning", "-c", block],
            cwd=workplace.home,
            env=environment(),
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
