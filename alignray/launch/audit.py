"""Whether the records of a sweep agree: its studies, Ray Tune's state, MLflow's runs, and the files of its folder.

Nothing is written, and no Ray is started. The studies' journal is the record of truth; the others follow it, so that
where they lag behind, going on with the sweep brings them up to it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alignray.errors import SweepError
from alignray.search import TrialRow, trial_key
from alignray.sweep import JOURNAL, Manifest, final_files, final_key, generation, sweep_folder, sweep_studies
from alignray.tracking import SWEEP_KEY, resolve_tracking_uri, unconfirmed_bytes, with_password, without_secrets

_OF_PROPOSAL = re.compile(r"proposal=Proposal_arm_(\w+)_number_(\d+)_")
"""A trial's arm and number, in the tag that Tune makes of its configuration."""
_EPOCHS = "train/loss"
_ENDED_BY_TUNE = ("TERMINATED", "ERROR")


@dataclass(frozen=True, kw_only=True, slots=True)
class Line:
    """One run as each record has it; None where a record has nothing of it.

    Attributes:
        key: Its name within the sweep.
        study: The state in its study; of a final model ``scored``.
        tune: How it ended at Ray Tune, as of Tune's last snapshot.
        mlflow: Its status in MLflow, and the state that its tags say.
        epochs: Epochs in its study.
        mlflow_epochs: Epochs in MLflow.
        checkpoint: The epoch of its newest checkpoint.
        looks: How often it was scored on the holdout, of a final model.
        findings: What does not agree.
    """

    key: str
    study: str | None = None
    tune: str | None = None
    mlflow: str | None = None
    epochs: int | None = None
    mlflow_epochs: int | None = None
    checkpoint: int | None = None
    looks: int | None = None
    findings: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, slots=True)
class Audit:
    """What the records of a sweep say.

    Attributes:
        name: The sweep.
        running: Whether a process drives it: then the records move while they are read.
        lines: Its trials and final models, arm by arm.
        findings: What does not agree, beside what the lines say.
        notes: What is no disagreement, but worth knowing.
    """

    name: str
    running: bool
    lines: tuple[Line, ...]
    findings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def agrees(self) -> bool:
        """Whether nothing was found."""
        return not self.findings and not any(line.findings for line in self.lines)


@dataclass(slots=True)
class _Said:
    """What was found and noted on the way."""

    findings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run in MLflow: its status, the state that its tags say, and its epochs."""

    status: str
    state: str | None
    epochs: int

    def __str__(self) -> str:
        return f"{self.status} {self.state}" if self.state else self.status


def audit(name: str, *, storage: str | Path = "runs", tracking_uri: str | None = None) -> Audit:
    """Read every record of a sweep, and compare them.

    Args:
        name: The sweep's name.
        storage: The folder of the sweeps.
        tracking_uri: The MLflow store; None for the one that the sweep writes to.

    Raises:
        SweepError: There is no such sweep, or its manifest cannot be read.
    """
    folder = sweep_folder(storage, name)
    manifest = Manifest.load(folder)
    uri = with_password(manifest.tracking_uri) if tracking_uri is None else resolve_tracking_uri(tracking_uri)
    said, running = _Said(), _is_driven(folder)
    _look_at_spool(folder / "spool", running, said)
    studies = _studies(folder, manifest, said)
    runs = _runs(uri, manifest.id, said)
    tune, checkpoints = _tune(folder / "tune", said), _checkpoints(folder / "tune" / "checkpoints")
    lines = []
    for arm in manifest.config.arms:
        known = {row.number for row in studies.values() if row.arm == arm}
        elsewhere = (re.fullmatch(rf"{re.escape(arm)}-(\d+)", key) for key in (*(runs or {}), *checkpoints))
        for number in sorted(known | {int(match[1]) for match in elsewhere if match}):
            key = trial_key(arm, number)
            lines.append(_trial(key, studies.get(key), tune.get(key), runs, checkpoints.get(key), running))
        lines += _final(folder, manifest, arm, runs, running)
    _look_at_whole(manifest, studies, runs, lines, running, said)
    return Audit(name=name, running=running, lines=tuple(lines), findings=tuple(said.findings), notes=tuple(said.notes))


def _trial(
    key: str,
    row: TrialRow | None,
    tune: str | None,
    runs: Mapping[str, _Run] | None,
    checkpoint: int | None,
    running: bool,
) -> Line:
    run = None if runs is None else runs.get(key)
    findings = []
    if row is None:
        findings.append("its study does not know it")
    elif runs is not None:
        findings += _against_mlflow(row, run)
    waits = row is not None and row.epochs in row.milestones  # Tune has ended it there, until it is to go on
    if row is not None and row.state == "running" and tune and not waits and not running:
        findings.append("Tune has ended it, and its study has not heard")
    return Line(
        key=key,
        study=None if row is None else row.state,
        tune=tune,
        mlflow=None if run is None else str(run),
        epochs=None if row is None else row.epochs,
        mlflow_epochs=None if run is None else run.epochs,
        checkpoint=checkpoint,
        findings=tuple(findings),
    )


def _against_mlflow(row: TrialRow, run: _Run | None) -> Iterator[str]:
    if run is None:
        yield "MLflow has no run of it"
        return
    status = {"running": "RUNNING", "failed": "FAILED"}.get(row.state, "FINISHED")
    state = None if row.state == "running" else row.state
    if run.status != status or (state is not None and run.state != state):
        yield f"expected {status} {state or ''}".rstrip() + " in MLflow"
    if run.epochs < row.epochs:
        yield f"MLflow lacks {row.epochs - run.epochs} of its epochs"
    # One that goes on, or failed, may have told the tracker of an epoch that its study never heard of.
    elif run.epochs > row.epochs and row.state in ("complete", "pruned"):
        yield f"MLflow has {run.epochs - row.epochs} epochs more than its study"


def _final(
    folder: Path, manifest: Manifest, arm: str, runs: Mapping[str, _Run] | None, running: bool
) -> Iterator[Line]:
    key, looks = final_key(arm, generation(folder, arm)), manifest.holdout_looks.get(arm, 0)
    model, scores = final_files(folder, arm)
    run = None if runs is None else runs.get(key)
    if not scores.exists() and not looks and run is None:
        return
    findings = []
    if scores.exists():
        if not looks:
            findings.append("it was scored on the holdout, and the manifest counts no look")
        if not model.exists():
            findings.append(f"its weights are missing: {model.name}")
        if runs is not None and (run is None or (run.status, run.state) != ("FINISHED", "complete")) and not running:
            findings.append("expected FINISHED complete in MLflow")
    elif run is not None and run.state == "complete":
        findings.append(f"MLflow has its score, and the folder has not: {scores.name}")
    yield Line(
        key=key,
        study="scored" if scores.exists() else None,
        mlflow=None if run is None else str(run),
        mlflow_epochs=None if run is None else run.epochs,
        looks=looks,
        findings=tuple(findings),
    )


def _look_at_whole(
    manifest: Manifest,
    studies: Mapping[str, TrialRow],
    runs: Mapping[str, _Run] | None,
    lines: list[Line],
    running: bool,
    said: _Said,
) -> None:
    """The sweep's own run, and what is still to do."""
    done = sum(line.study == "scored" for line in lines) == len(manifest.config.arms)
    if runs is not None and (studies or lines):
        own = runs.get(SWEEP_KEY)
        if own is None:
            said.findings.append("MLflow has no run of the sweep itself")
        elif done and own.status != "FINISHED" and not running:
            said.findings.append(f"every final model is scored, and the sweep's own run in MLflow is {own.status}")
    if running or done:
        return
    waiting = sum(row.state == "running" for row in studies.values())
    missing = manifest.config.search.trials * len(manifest.config.arms) - len(studies)
    if waiting or (missing and not manifest.holdout_looks):
        said.notes.append(f"interrupted: {waiting} trials wait to go on, {missing} are not proposed yet")
    else:
        said.notes.append("the search is over; final models are still to be scored")


def _is_driven(folder: Path) -> bool:
    """Whether a process holds the lock of the sweep, as far as the file system knows locks."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(handle)
    return False


def _look_at_spool(folder: Path, running: bool, said: _Said) -> None:
    backlog = unconfirmed_bytes(folder)
    if backlog is None:
        said.findings.append(f"the spool is missing ({folder}): what MLflow had not confirmed is not kept anywhere")
    elif backlog:
        text = f"the spool holds {backlog} bytes that MLflow has not confirmed"
        (said.notes if running else said.findings).append(text)
    refused = folder / "refused.jsonl"
    if refused.exists():
        said.notes.append(f"MLflow refused {len(refused.read_text().splitlines())} values; they are kept in {refused}")


def _studies(folder: Path, manifest: Manifest, said: _Said) -> dict[str, TrialRow]:
    """The trials by key, from a copy of the journal: to open the journal itself mends its last line."""
    if manifest.config.search.storage is not None:
        return _rows(folder, manifest)
    journal = folder / JOURNAL
    if not journal.exists():
        return {}
    lines = journal.read_bytes().splitlines(keepends=True)
    whole = next((number for number, line in enumerate(lines) if not _is_entry(line)), len(lines))
    if whole == len(lines) - 1 and not lines[-1].endswith(b"\n"):
        said.notes.append(f"{JOURNAL}: its last line was cut short, and counts for nothing")
    elif whole < len(lines):
        said.findings.append(
            f"{JOURNAL}: line {whole + 1} of {len(lines)} is damaged, and nothing behind it can be read; the sweep "
            "cannot go on with it: put the file back from a copy, or run a new sweep"
        )
    with tempfile.TemporaryDirectory() as copy:
        (Path(copy) / JOURNAL).write_bytes(b"".join(lines[:whole]))
        return _rows(Path(copy), manifest)


def _rows(folder: Path, manifest: Manifest) -> dict[str, TrialRow]:
    rows = [row for study in sweep_studies(folder, manifest).values() for row in study.rows()]
    return {trial_key(row.arm, row.number): row for row in rows}


def _is_entry(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _runs(uri: str, sweep_id: str, said: _Said) -> dict[str, _Run] | None:
    """MLflow's runs by key; None where it cannot be asked."""
    from alignray.tracking.reading import open_store, runs_of
    from alignray.tracking.writer import KEY

    runs: dict[str, _Run] = {}
    try:
        with _impatient():
            client = open_store(uri)
            for run in runs_of(client, sweep_id):
                key, tags = run.data.tags[KEY], run.data.tags
                if key in runs:
                    said.findings.append(f"MLflow has two runs of {key}")
                history = client.get_metric_history(run.info.run_id, _EPOCHS) if _EPOCHS in run.data.metrics else []
                epochs = max((metric.step for metric in history), default=0)
                runs[key] = _Run(run.info.status, tags.get("alignray.state"), epochs)
    except SweepError as error:
        said.findings.append(f"MLflow cannot be asked: {error}")
        return None
    except Exception as error:  # whatever MLflow and what it stands on throw
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        said.findings.append(f"MLflow cannot be asked: {without_secrets(first)}")
        return None
    return runs


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    """MLflow's client tries for minutes at a server that is away; whoever asks a doctor waits for the answer."""
    wanted = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
    added = wanted.keys() - os.environ.keys()
    os.environ.update({name: wanted[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]


def _tune(folder: Path, said: _Said) -> dict[str, str]:
    """How each trial ended in the newest snapshot that Tune made of it.

    Of one that waits or runs there, it may have been taken long before the attempt was cut short: it says nothing.
    """
    statuses: dict[str, str] = {}
    attempts = sorted(folder.glob("attempt-*"), key=lambda path: int(path.name.removeprefix("attempt-")))
    for path in (path for attempt in attempts for path in sorted(attempt.glob("experiment_state-*.json"))):
        try:
            trials = [json.loads(trial) for trial, _ in json.loads(path.read_text())["trial_data"]]
        except (OSError, TypeError, ValueError, KeyError):
            said.notes.append(
                f"{path.relative_to(folder.parent)}: Tune's snapshot cannot be read; nothing depends on it"
            )
            continue
        ended = [trial for trial in trials if trial["status"] in _ENDED_BY_TUNE]
        statuses |= {key: trial["status"] for trial in ended if (key := _key_of(trial))}
    return statuses


def _key_of(trial: Mapping[str, Any]) -> str | None:
    found = _OF_PROPOSAL.search(str(trial.get("experiment_tag")))
    return found and trial_key(found[1], int(found[2]))


def _checkpoints(folder: Path) -> dict[str, int]:
    """The epoch of the newest checkpoint of each trial that has one, as the files are called; none is opened."""
    newest: dict[str, int] = {}
    for path in folder.glob("*/*.safetensors"):
        if path.stem.isdecimal():
            newest[path.parent.name] = max(newest.get(path.parent.name, 0), int(path.stem))
    return newest
