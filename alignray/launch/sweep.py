"""Running a sweep: search, finals, comparison, report."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from alignray.data import Panel
from alignray.errors import SweepError
from alignray.launch.templates import NAME
from alignray.launch.tracked import FLUSH_S, tracked
from alignray.report import (
    compare_across,
    comparison_table,
    pareto_table,
    trials_table,
    verdicts,
    write_comparison,
    write_paired,
    write_report,
)
from alignray.serving import log_models
from alignray.sweep import (
    FinalResult,
    Manifest,
    Past,
    Placed,
    Progress,
    Silent,
    SweepConfig,
    load_finals,
    past_of,
    place,
    ray_cluster,
    require_gpus,
    run_search,
    seal,
    settle_lag,
    sweep_folder,
    sweep_studies,
    train_finals,
)
from alignray.tracking import (
    SWEEP_KEY,
    RunNote,
    TrackerHandle,
    require_access,
    resolve_tracking_uri,
    runs_of,
    wait_until_written,
    with_password,
    without_password,
)

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, slots=True, eq=False)
class SweepResult:
    """A sweep that was run.

    Attributes:
        name: Its name.
        folder: Its folder.
        tracking_uri: The MLflow store that holds its runs, without its password.
        trials: One row a trial: arm, number, state, value, epochs, reason, seconds, and its point of the space.
        comparison: One row an arm and metric: value, low, high, and what they rest on.
        metric: What the search looked at.
        pareto: Where it looked at several metrics, the trials that no other of their arm betters in all of them, with
            each metric's score; None where at one.
    """

    name: str
    folder: Path
    tracking_uri: str
    trials: pd.DataFrame
    comparison: pd.DataFrame
    metric: str
    pareto: pd.DataFrame | None = None


def run_sweep(
    sweep: SweepConfig,
    *,
    name: str | None = None,
    storage: str | Path = "runs",
    address: str | None = None,
    tracking_uri: str | None = None,
    register: str | None = None,
    warm_start: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Search, train the best of each arm afresh, score it once on the holdout, and compare.

    Args:
        sweep: The sweep.
        name: Its name, and that of its folder; None for the template's name and the time.
        storage: The folder of the sweeps; on a cluster, one that every node sees.
        address: The Ray cluster, of which this machine is one: ``auto``, ``host:port``; None starts one here.
        tracking_uri: The MLflow store; None for ``MLFLOW_TRACKING_URI``, or ``sqlite:///mlflow.db``.
        register: MLflow's registered model that the final models become versions of, one an arm; None registers none.
        warm_start: An earlier sweep in the same folder of sweeps, on the same data and scored in the same way: its
            trials are shown to the samplers, each arm's to its own, and count for nothing else.
        progress: Watches.

    Raises:
        ConfigurationError: A network of one's own cannot be imported or built.
        DataError: The panel cannot be read.
        SweepError: The name is taken, the folder cannot be written, the cluster does not answer, or this machine, which
            is the cluster, has no GPU that trials ask for; or the MLflow store will not let us write; or the earlier
            sweep is not there, or has nothing to tell this one.
        Interrupted: Ctrl-C.
        WorkError: The work failed.
    """
    progress = progress or Silent()
    _require_model_name(register)
    uri = resolve_tracking_uri(tracking_uri)
    name = name or f"{sweep.template}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    folder = _free_folder(storage, name)
    _require_gpus(sweep, address)
    progress.phase(f"reading {sweep.data.source}")
    panel = sweep.data.load()
    past = None if warm_start is None else _past(folder.with_name(warm_start), sweep, panel)
    sweep.split(panel.num_eras)
    sweep.require_models(panel.num_features)
    with ray_cluster(address):
        _require_access(uri, progress)
        manifest = Manifest.of(name, settle_lag(sweep), panel, without_password(uri))
        if past is not None:
            manifest = replace(manifest, warm_start=past.record)
        _create(folder, manifest)
        if past is not None:
            past.save(folder)
        with _sole_driver(folder):
            placed = _place(folder, manifest, panel, progress)
            del panel  # the workers' copy is the only one of this node
            return _execute(folder, manifest, placed, uri, progress, register)


def resume_sweep(
    name: str,
    *,
    trials: int | None = None,
    time_budget_s: float | None = None,
    storage: str | Path = "runs",
    address: str | None = None,
    tracking_uri: str | None = None,
    register: str | None = None,
    progress: Progress | None = None,
) -> SweepResult:
    """Go on with a sweep that was interrupted, or that is to have more trials: nothing that was finished is run again.

    An arm of a finished sweep whose best trial is another after more trials has a new final model trained and scored,
    which is another look at the holdout; the other arms keep theirs.

    Args:
        name: The sweep's name.
        trials: Trials of each arm, at least as many as it has; None leaves their number as it is.
        time_budget_s: Seconds after which the search stops this time; None leaves the budget as it is.
        storage: The folder of the sweeps.
        address: The Ray cluster; see `run_sweep`.
        tracking_uri: The MLflow store; None for the one that the sweep began with. Its password is not kept, but taken
            from ``MLFLOW_TRACKING_URI``, where that is the same store, or from where MLflow and databases look for it.
        register: See `run_sweep`.
        progress: Watches.

    Raises:
        SweepError: There is no such sweep, it is running, it has more trials, its data have changed since, or this
            machine, which is the cluster, has no GPU that trials ask for; or the MLflow store will not let us write.
        Interrupted: Ctrl-C.
        WorkError: The work failed.
    """
    progress = progress or Silent()
    _require_model_name(register)
    folder = sweep_folder(storage, name)
    manifest = Manifest.load(folder)
    _require_gpus(manifest.config, address)
    with _sole_driver(folder):
        if trials is not None or time_budget_s is not None:
            manifest = manifest.extended(trials, time_budget_s)
        uri = with_password(manifest.tracking_uri) if tracking_uri is None else resolve_tracking_uri(tracking_uri)
        if tracking_uri is not None:
            manifest = manifest.with_tracking(without_password(uri))
        progress.phase(f"reading {manifest.config.data.source}")
        panel = manifest.config.data.load()
        if panel.digest != manifest.data["digest"]:
            raise SweepError(
                f"sweep {name!r}: its data have changed since it began (digest {panel.digest[:12]}, "
                f"then {manifest.data['digest'][:12]}); put the data back, or run a new sweep"
            )
        with ray_cluster(address):
            _require_access(uri, progress)
            manifest.save(folder)  # once it is known that the store will do
            placed = _place(folder, manifest, panel, progress)
            del panel
            return _execute(folder, manifest, placed, uri, progress, register)


def open_result(name: str, *, storage: str | Path = "runs") -> SweepResult:
    """The result of a sweep from its folder, as far as it got.

    Raises:
        SweepError: There is no such sweep.
    """
    folder = sweep_folder(storage, name)
    return _result(folder, Manifest.load(folder))


def compare_sweeps(first: str, second: str, *, storage: str | Path = "runs") -> pd.DataFrame:
    """What the second of two finished sweeps has over the first; see `alignray.report.compare_across`.

    Raises:
        SweepError: There is no such sweep, or the two cannot be compared.
    """
    manifests = [Manifest.load(sweep_folder(storage, name)) for name in (first, second)]
    finals = [load_finals(sweep_folder(storage, manifest.name), manifest) for manifest in manifests]
    return compare_across((manifests[0], finals[0]), (manifests[1], finals[1]))


def write_page(result: SweepResult, path: Path) -> Path:
    """Write the report of a finished sweep to a file of one's choice."""
    manifest = Manifest.load(result.folder)
    return _write_page(manifest, load_finals(result.folder, manifest), result, path)


def _write_page(manifest: Manifest, finals: list[FinalResult], result: SweepResult, path: Path) -> Path:
    studies = sweep_studies(result.folder, manifest)
    importances = {arm: study.importance() for arm, study in studies.items()}
    return write_report(manifest, finals, result.trials, result.comparison, path, importances=importances)


def _past(folder: Path, sweep: SweepConfig, panel: Panel) -> Past:
    manifest = Manifest.load(folder)
    rows = {arm: study.rows() for arm, study in sweep_studies(folder, manifest).items()}
    return past_of(manifest, rows, sweep, panel.digest)


def _require_gpus(config: SweepConfig, address: str | None) -> None:
    """A cluster may get GPUs while the sweep waits for them; this machine alone does not."""
    import ray

    if address is None and not ray.is_initialized():
        require_gpus(config.resources)


def _require_access(uri: str, progress: Progress) -> None:
    """A store that will never take anything is told of at once; one that is away, as the sweep goes on."""
    if away := require_access(uri):
        progress.warn(f"MLflow at {without_password(uri)} does not answer ({away}); the sweep begins all the same")


def _place(folder: Path, manifest: Manifest, panel: Panel, progress: Progress) -> dict[str, Placed]:
    split = manifest.config.split(panel.num_eras)
    searched, sealed = seal(panel, split.holdout, manifest.config.trial.split.embargo)
    return place({"searched": searched, "holdout": sealed}, folder / "shards", progress)


def _execute(
    folder: Path, manifest: Manifest, placed: Mapping[str, Placed], uri: str, progress: Progress, register: str | None
) -> SweepResult:
    folds = manifest.config.split(manifest.data["eras"]).folds
    with tracked(folder, manifest, uri, progress) as tracker:
        progress.phase(f"searching {len(manifest.config.arms)} arms × {manifest.config.search.trials} trials")
        studies = run_search(folder, manifest, placed["searched"], folds, tracker, progress)
        progress.phase("training the best of each arm afresh")
        manifest, finals = train_finals(
            folder, manifest, studies, placed["searched"], placed["holdout"], folds[-1], tracker, progress
        )
        progress.phase("writing the comparison")
        result = _result(folder, manifest)
        csv = write_comparison(result.comparison, folder)
        paired = write_paired(manifest, result.trials, folder) if manifest.config.search.paired else []
        page = _write_page(manifest, finals, result, folder / "report.html")
        left = _log_results(tracker, manifest, result.comparison, [csv, *paired, page, folder / "manifest.json"])
        if left:
            progress.warn(f"MLflow cannot be written to, so it lacks the models: {left}")
        else:
            log_models(uri, finals, runs_of(tracker), register)
    return result


def _log_results(tracker: TrackerHandle, manifest: Manifest, comparison: pd.DataFrame, files: list[Path]) -> str:
    """Hand the comparison to MLflow, and wait for it; what keeps it, or empty."""
    found = verdicts(comparison, manifest.config.trial.scoring.metric)
    description = (
        f"Sweep **{manifest.name}** of template `{manifest.config.template}`: the arms "
        f"{', '.join(manifest.config.arms)}, {manifest.config.search.trials} trials each. "
        "The comparison on the sealed holdout is in the artifacts: `report.html`, `comparison.csv`.\n\n"
        + "".join(f"- {verdict}\n" for verdict in found)
    )
    note = RunNote(key=SWEEP_KEY, tags={"mlflow.note.content": description}, files=tuple(map(str, files)))
    tracker.log.remote([note])
    return wait_until_written(tracker, FLUSH_S)


def _result(folder: Path, manifest: Manifest) -> SweepResult:
    studies = sweep_studies(folder, manifest)
    trials = trials_table([row for study in studies.values() for row in study.rows()])
    comparison = comparison_table(manifest, load_finals(folder, manifest), trials)
    metric = manifest.config.trial.scoring.metric
    pareto = pareto_table(manifest, trials)
    return SweepResult(manifest.name, folder, manifest.tracking_uri, trials, comparison, metric, pareto)


@contextlib.contextmanager
def _sole_driver(folder: Path) -> Iterator[None]:
    """Keep a second process from driving the same sweep. The lock goes with the process, however it ends."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems know no locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise SweepError(f"sweep {folder.name!r} is running; let it end, or stop it first") from None
        yield
    finally:
        os.close(handle)


def _require_model_name(register: str | None) -> None:
    """Hours before MLflow would refuse it."""
    if register is not None and not NAME.fullmatch(register):
        raise SweepError(f"register: expected at most 100 letters, digits, '.', '_' and '-', got {register!r}")


def _free_folder(storage: str | Path, name: str) -> Path:
    if not NAME.fullmatch(name):
        raise SweepError(f"name: expected at most 100 letters, digits, '.', '_' and '-', got {name!r}")
    folder = sweep_folder(storage, name)
    try:
        taken, there = folder.exists(), next(parent for parent in folder.parents if parent.exists())
    except OSError as error:
        raise SweepError(f"storage {str(storage)!r}: {error.strerror}; choose another --storage") from error
    if taken:
        raise SweepError(
            f"a sweep {name!r} is already in {storage}; choose another --name, or go on with it: alignray resume {name}"
        )
    if not there.is_dir() or not os.access(there, os.W_OK):
        raise SweepError(f"storage {str(storage)!r}: {there} cannot be written to; choose another --storage")
    return folder


def _create(folder: Path, manifest: Manifest) -> None:
    try:
        folder.mkdir(parents=True)
        manifest.save(folder)
    except FileExistsError:
        raise SweepError(f"a sweep {manifest.name!r} has just been started; choose another --name") from None
    except OSError as error:
        raise SweepError(f"storage {str(folder.parent)!r}: cannot be written to ({error}); choose another") from error
