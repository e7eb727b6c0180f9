"""The manifest: a sweep's whole configuration and circumstances, enough to run it again."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import uuid
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, cast

from alignray.configuration import from_plain, to_plain
from alignray.data import Panel
from alignray.errors import SweepError
from alignray.imports import UserCode
from alignray.sweep.config import SweepConfig

_FORMAT = 1
_FILE = "manifest.json"
_PACKAGES = ("alignray", "torch", "ray", "optuna", "mlflow", "cvxpylayers", "numpy", "pandas", "pyarrow")


@dataclass(frozen=True, kw_only=True, slots=True)
class Extension:
    """What a sweep was given beyond what it began with.

    Attributes:
        at: When, in ISO 8601, UTC.
        trials: Trials of each arm from then on.
        time_budget_s: The time budget from then on.
        looks: The looks at the holdout until then, by arm.
    """

    at: str
    trials: int
    time_budget_s: float | None
    looks: dict[str, int]


@dataclass(frozen=True, kw_only=True, slots=True)
class Manifest:
    """What a sweep is and where it ran.

    Attributes:
        name: The sweep's name.
        id: What tells it from another sweep of the same name.
        created: When, in ISO 8601, UTC.
        tracking_uri: The MLflow store, without its password.
        config: The configuration.
        data: The panel's digest and size.
        versions: Packages and Python.
        devices: The machine that started it.
        git_commit: The commit of the working folder, marked where files differ from it; None outside git.
        holdout_looks: By arm, how often a model was scored on the holdout.
        extensions: What it was given later: trials, time.
        warm_start: The earlier sweep whose trials its samplers look at: its ``sweep`` and ``id``, and by arm how many
            trials it had to tell, ``trials``, and how many of its others ended, ``left_out``; None without.
        code: The SHA-256 of each file of ``config.imports``.
    """

    name: str
    id: str
    created: str
    tracking_uri: str
    config: SweepConfig
    data: dict[str, Any]
    versions: dict[str, str]
    devices: dict[str, Any]
    git_commit: str | None
    holdout_looks: dict[str, int] = field(default_factory=dict)
    extensions: tuple[Extension, ...] = ()
    warm_start: dict[str, Any] | None = None
    code: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, config: SweepConfig, panel: Panel, tracking_uri: str) -> Manifest:
        """The manifest of a sweep that is about to start here."""
        return cls(
            name=name,
            id=uuid.uuid4().hex,
            created=_now(),
            tracking_uri=tracking_uri,
            config=config,
            data={
                "source": config.data.source,
                "digest": panel.digest,
                "eras": panel.num_eras,
                "rows": panel.num_rows,
                "features": panel.num_features,
                "factors": panel.num_factors,
                "first_era": panel.eras[0],
                "last_era": panel.eras[-1],
            },
            versions=package_versions(),
            devices=devices(),
            git_commit=_git_commit(),
            code=UserCode.of(config.imports).digests,
        )

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read the manifest of a sweep's folder.

        Raises:
            SweepError: There is none, it cannot be read, a newer version wrote it, or the user's own code that it names
                is gone or has changed.
        """
        path = folder / _FILE
        try:
            plain = dict(json.loads(path.read_text()))
        except FileNotFoundError as error:
            known = sorted(found.parent.name for found in folder.parent.glob(f"*/{_FILE}"))
            hint = f"the sweeps there are {', '.join(known)}" if known else "there are no sweeps there"
            raise SweepError(f"no sweep {folder.name!r} in {folder.parent}; {hint}") from error
        except (OSError, TypeError, ValueError) as error:
            raise SweepError(
                f"{path}: expected a sweep's manifest, got a file that cannot be read ({error})"
            ) from error
        if plain.pop("format", 0) > _FORMAT:
            raise SweepError(f"{path}: written by a newer alignray; upgrade to go on with this sweep")
        _import_code(folder.name, plain)
        return from_plain(cls, plain)

    def save(self, folder: Path) -> None:
        """Write the manifest, whole or not at all."""
        plain = {"format": _FORMAT, **cast("dict[str, Any]", to_plain(self))}
        partial = folder / f"{_FILE}.partial"
        partial.write_text(json.dumps(plain, indent=2) + "\n")
        partial.replace(folder / _FILE)

    def with_tracking(self, uri: str) -> Manifest:
        """The manifest with another MLflow store."""
        return replace(self, tracking_uri=uri)

    def extended(self, trials: int | None, time_budget_s: float | None) -> Manifest:
        """The manifest with another number of trials of each arm, or another time budget; None leaves one as it is.

        Raises:
            SweepError: The sweep has more trials already.
            ConfigurationError: The search cannot have so many.
        """
        search, resources = self.config.search, self.config.resources
        trials = search.trials if trials is None else trials
        if trials > search.trials and self.config.scheduler.name == "pbt":
            raise SweepError(
                f"trials: expected the {search.trials} of each arm that sweep {self.name!r} has, got {trials}; under "
                "pbt they are one population, which others cannot join: run a new sweep"
            )
        if trials < search.trials:
            raise SweepError(
                f"trials: expected at least the {search.trials} of each arm that sweep {self.name!r} has, got {trials}"
            )
        time_budget_s = resources.time_budget_s if time_budget_s is None else time_budget_s
        config = replace(
            self.config,
            search=replace(search, trials=trials),
            resources=replace(resources, time_budget_s=time_budget_s),
        )
        extension = Extension(at=_now(), trials=trials, time_budget_s=time_budget_s, looks=self.holdout_looks)
        return replace(self, config=config, extensions=(*self.extensions, extension))

    @property
    def searching(self) -> bool:
        """Whether the search may go on: a model that looks at the holdout ends it, until the sweep is extended."""
        return self.holdout_looks == (self.extensions[-1].looks if self.extensions else {})

    def with_look(self, arm: str) -> Manifest:
        """The manifest with one more look of an arm at the holdout."""
        return replace(self, holdout_looks={**self.holdout_looks, arm: self.holdout_looks.get(arm, 0) + 1})


def sweep_folder(storage: str | Path, name: str) -> Path:
    """The folder of a sweep among those of a storage.

    Raises:
        SweepError: The storage is an address: it would be taken for a folder of that name.
    """
    if re.match(r"[a-z][a-z0-9+.-]+:/", str(storage)):  # of the two slashes a Path keeps one
        raise SweepError(
            f"storage: expected a folder that every machine sees, got {str(storage)!r}; a sweep appends to files and "
            "renames them, which object stores cannot: mount a shared file system and name its folder. Shards of the "
            "data may lie on an object store: data.source"
        )
    return Path(storage).resolve() / name


def _import_code(sweep: str, plain: dict[str, Any]) -> None:
    """Import what the configuration names, so that it can be read: the very files that the sweep began with."""
    config, digests = plain.get("config"), plain.get("code")
    imports = config.get("imports") if isinstance(config, dict) else None
    if not isinstance(imports, list) or not isinstance(digests, dict):
        return  # written by an older version, or spoilt, as reading it will say
    code = UserCode.of([str(name) for name in imports])
    code.require(digests, sweep)
    code.load()


def package_versions() -> dict[str, str]:
    """The versions of Python and of the packages that a result depends on."""
    versions = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return versions


def devices() -> dict[str, Any]:
    """The machine's kind, cores and GPUs."""
    import torch

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return {"machine": platform.machine(), "cpus": os.cpu_count(), "gpus": gpus}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _git_commit() -> str | None:
    try:
        commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10)
        status = subprocess.run(
            ["git", "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.stdout.strip() + ("+changes" if status.stdout.strip() else "")
