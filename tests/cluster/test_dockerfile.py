"""The image's recipe, as far as it can be read without building it."""

from __future__ import annotations

import fnmatch
import json
import re
import subprocess
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
STEPS = [
    (step["instruction"], step["value"])
    for step in DockerfileParser(fileobj=DOCKERFILE.open("rb")).structure
    if step["instruction"] != "COMMENT"
]


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def test_its_instructions_are_docker_s() -> None:
    assert {name for name, _ in STEPS} <= {"ARG", "CMD", "COPY", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
    assert json.loads(values("CMD")[0]) == ["alignray", "doctor"]


def test_bases_are_pinned_to_a_release() -> None:
    bases = {value.split()[0] for value in values("FROM")}
    assert len(bases) == 1
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-\w+", bases.pop())


def test_packages_are_those_that_the_suite_runs_with() -> None:
    (install,) = (value for value in values("RUN") if "pip install" in value)
    assert "--constraint constraints.txt" in install
    assert "--no-cache-dir" in install


def test_it_ends_as_a_user_who_is_not_root() -> None:
    assert values("USER") == ["1000:1000"]
    after = [name for name, _ in STEPS[STEPS.index(("USER", "1000:1000")) :]]
    assert not {"RUN", "COPY"} & set(after)


def test_what_it_copies_is_there_and_no_more_is_sent_to_the_engine() -> None:
    copied = {part for value in values("COPY") if "--from" not in value for part in value.split()[:-1]}
    assert all((ROOT / part).exists() for part in copied)
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied
    assert not any(fnmatch.fnmatch(part, line) for part in copied for line in lines[1:] if not line.startswith("!"))


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu"])
def test_the_device_is_checked(device: str, tmp_path: Path) -> None:
    (install,) = (value for value in values("RUN") if "pip install" in value)
    shown = re.sub(r"/opt/alignray/bin/pip", "echo pip", install)
    done = subprocess.run(
        ["/bin/sh", "-c", shown], env={"DEVICE": device}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (device != "tpu")
    assert ("whl/cpu" in done.stdout) == (device == "cpu")
    assert device != "tpu" or "expected cpu or cuda, got tpu" in done.stderr
