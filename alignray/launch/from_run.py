"""From a run in MLflow back to the sweep that makes it again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from alignray.configuration import flatten, replace_at, to_plain
from alignray.errors import SweepError
from alignray.search import Choice, Distribution, Int, Space
from alignray.search.space import Value
from alignray.sweep import COURSE, SweepConfig, config_of_tags

if TYPE_CHECKING:
    from mlflow.entities import Run


def sweep_of_run(run_id: str, tracking_uri: str) -> tuple[SweepConfig, str]:
    """The sweep that makes a run again, and in a few lines what it is.

    Of a trial that is its configuration with a search of one trial, which begins at the template's own point; the space
    stays, to go on from there. A final model is made again by the trial that it was trained after. The data are pinned
    by their digest.

    Args:
        run_id: The id of a trial's run, of a final one, or of the sweep's own.
        tracking_uri: The MLflow store.

    Raises:
        SweepError: There is no such run, it is no sweep's, or its sweep did not leave its configuration.
    """
    from alignray.tracking.reading import open_store, read_run

    client = open_store(tracking_uri)
    run = read_run(client, run_id)
    tags = run.data.tags
    kind, name = tags.get("alignray.kind"), tags.get("mlflow.runName", run_id)
    if kind not in ("sweep", "trial", "final"):
        raise SweepError(f"run {run_id!r}: expected a run of a sweep of alignray, got one that is none ({name})")
    config = config_of_tags((run if kind == "sweep" else read_run(client, tags["mlflow.parentRunId"])).data.tags)
    if config is None:
        raise SweepError(
            f"run {run_id!r}: its sweep left no configuration in MLflow, as an older alignray ran it; "
            f"it is in runs/{tags['alignray.sweep']}/manifest.json"
        )
    if kind == "sweep":
        return config, f"Sweep {name}, as it was run."
    config = _alone(config, run)
    about = (
        f"{tags['alignray.objective']}-{tags['alignray.trial']} of sweep {tags['alignray.sweep']}, as it was run.\n\n"
    )
    about += (
        "One trial, at the point that the search had come to; the space is what it was searched in: --trials 8 goes on"
    )
    about += "\nfrom there. Its final model looks at the same sealed eras once more.\n"
    if config.trial.changes:
        about += "Its strengths and rates changed on the way (pbt), and so do those of every trial of this file.\n"
    return config, about.rstrip()


def _alone(config: SweepConfig, run: Run) -> SweepConfig:
    """The sweep of one trial: that of a trial's run, or the one that a final model was trained after."""
    arm, params = run.data.tags["alignray.objective"], run.data.params
    began = replace_at(config.base, {"objective": arm, **_values(config.space, params)})
    trial = began
    if course := _course(run):
        trial = replace_at(config.base, {"objective": arm, **course["values"], "changes": course["changes"]})
    search = replace(config.search, trials=1, initial_points=1)
    # A population of one has nobody to take from: it goes through the changes that it once came by.
    scheduler = replace(config.scheduler, name="fifo") if config.scheduler.name == "pbt" else config.scheduler
    alone = replace(config, trial=trial, arms=(arm,), search=search, scheduler=scheduler)
    if run.data.tags["alignray.kind"] == "final":
        began = replace(trial, members=config.holdout.members, seed=config.holdout.seed)
    expected = {name: str(value) for name, value in flatten(to_plain(began)).items()}
    if differing := sorted(name for name in expected.keys() | params.keys() if expected.get(name) != params.get(name)):
        raise SweepError(
            f"run {run.info.run_id!r}: its params do not follow from its sweep's configuration: "
            f"{', '.join(differing)}; another version of alignray may have written them"
        )
    return alone


def _course(run: Run) -> Any:
    """What the run's state came from, where that changed on the way (pbt)."""
    try:
        return json.loads(run.data.tags.get(COURSE, "null"))
    except ValueError:
        raise SweepError(
            f"run {run.info.run_id!r}: its course is longer than a tag of MLflow's; the whole is among its artifacts, "
            "for trial.changes of a template of your own"
        ) from None


def _values(space: Space, params: Mapping[str, str]) -> dict[str, Value]:
    """The run's point of the space: of each field that exists there, what the param's text says."""
    values: dict[str, Value] = {}
    for path, distribution in space.distributions.items():
        if all(values.get(needed) in allowed for needed, allowed in distribution.condition.items()):
            values[path] = _value(path, distribution, params)
    return values


def _value(path: str, distribution: Distribution, params: Mapping[str, str]) -> Value:
    text = params.get(path, "")
    try:
        if isinstance(distribution, Choice):
            return next(option for option in distribution.options if str(option) == text)
        return int(text) if isinstance(distribution, Int) else float(text)
    except (StopIteration, ValueError):
        raise SweepError(f"param {path}: expected {distribution.describe()}, got {text!r}") from None
