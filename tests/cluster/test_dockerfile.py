"""The image's recipe, as far as it can be read without building it."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from dockerfile_parse import DockerfileParser

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "cluster" / "Dockerfile"
STEPS = [
    (step["instruction"], step["value"])
    for step in DockerfileParser(fileobj=io.BytesIO(DOCKERFILE.read_bytes())).structure
    if step["instruction"] != "COMMENT"
]


def values(instruction: str) -> list[str]:
    return [value for name, value in STEPS if name == instruction]


def test_its_instructions_are_docker_s() -> None:
    assert {name for name, _ in STEPS} <= {"ARG", "CMD", "ENV", "FROM", "RUN", "USER", "WORKDIR"}
    assert json.loads(values("CMD")[0]) == ["alignray", "doctor"]


def test_its_base_is_pinned_to_a_release() -> None:
    (base,) = values("FROM")
    assert re.fullmatch(r"docker\.io/library/python:3\.11\.\d+-slim-\w+", base)


def test_packages_are_those_that_the_suite_runs_with() -> None:
    (install,) = (value for value in values("RUN") if "pip install" in value)
    assert "--constraint constraints.txt" in install
    assert "--no-cache-dir" in install


def test_it_ends_as_a_user_who_is_not_root() -> None:
    assert values("USER") == ["1000:1000"]
    after = [name for name, _ in STEPS[STEPS.index(("USER", "1000:1000")) :]]
    assert "RUN" not in after


def test_the_engine_gets_what_the_wheel_is_made_of_and_no_more() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    made_of = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"], "LICENSE"}
    first, *admitted = (ROOT / ".dockerignore").read_text().splitlines()
    assert first == "*"
    assert {line[1:] for line in admitted if line[0] == "!"} == made_of | {"constraints.txt", "pyproject.toml"}


@pytest.mark.parametrize("device", ["cpu", "cuda", "tpu"])
def test_the_device_is_checked(device: str, tmp_path: Path) -> None:
    (install,) = (value for value in values("RUN") if "pip install" in value)
    shown = re.sub(r"--mount=\S+", "", install).replace("cd /source", "true").replace("pip install", "echo pip install")
    done = subprocess.run(
        ["/bin/sh", "-c", shown], env={"DEVICE": device}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode == 0) == (device != "tpu")
    assert ("whl/cpu" in done.stdout) == (device == "cpu")
    assert device != "tpu" or "expected cpu or cuda, got tpu" in done.stderr
