"""A warm start: what an earlier sweep found, shown to the samplers of a new one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from alignray.errors import SweepError
from alignray.search import SAMPLERS, TrialRow
from alignray.sweep.config import SweepConfig
from alignray.sweep.manifest import Manifest

_FILE = "past.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """Trials of an earlier sweep.

    Attributes:
        trials: By arm, those that ended with a score and are points of the new space, with the values that it has.
        record: For the manifest: whose they are, how many there are of each arm, and how many ended and are left out.
    """

    trials: Mapping[str, list[TrialRow]]
    record: dict[str, Any]

    def save(self, folder: Path) -> None:
        """Write the trials to a sweep's folder; `load_past` reads them."""
        plain = {arm: [asdict(row) for row in rows] for arm, rows in self.trials.items()}
        (folder / _FILE).write_text(json.dumps(plain))


def load_past(folder: Path) -> dict[str, list[TrialRow]]:
    """The trials that a sweep was warmed with, by arm; empty for one that was not."""
    path = folder / _FILE
    if not path.exists():
        return {}
    none: dict[str, Any] = {
        "milestones": {},
        "exploits": (),
    }  # of a population they may be, but none took another one's state
    return {arm: [TrialRow(**{**row, **none}) for row in rows] for arm, rows in json.loads(path.read_text()).items()}


def past_of(manifest: Manifest, rows: Mapping[str, Sequence[TrialRow]], config: SweepConfig, digest: str) -> Past:
    """What an earlier sweep has to tell a new one.

    Args:
        manifest: The earlier sweep.
        rows: Its trials, by arm.
        config: The new sweep.
        digest: That of the new sweep's panel.

    Raises:
        SweepError: The earlier sweep's scores are not those of the new one, or the new one would not look at them.
    """
    _require_same(manifest, config, digest)
    trials: dict[str, list[TrialRow]] = {}
    left_out: dict[str, int] = {}
    for arm in config.arms:
        ended = [row for row in rows.get(arm, []) if row.state in ("complete", "pruned") and row.value is not None]
        points = [(row, config.space.point_in(row.values)) for row in ended if not row.exploits]
        trials[arm] = [row.at(values) for row, values in points if values is not None]
        left_out[arm] = len(ended) - len(trials[arm])
        if not trials[arm]:
            raise SweepError(
                f"warm start: arm {arm!r} of sweep {manifest.name!r} has no trial that is a point of this space, so "
                "the arms would not start alike; start without, or leave the arm out"
            )
    counts = {arm: len(of_arm) for arm, of_arm in trials.items()}
    record = {"sweep": manifest.name, "id": manifest.id, "trials": counts, "left_out": left_out}
    return Past(trials=trials, record=record)


def _require_same(manifest: Manifest, config: SweepConfig, digest: str) -> None:
    old, sampler = manifest.config, SAMPLERS[config.search.sampler]
    lacking = [arm for arm in config.arms if arm not in old.arms]
    reasons = {
        f"sampler {config.search.sampler} does not look at earlier trials": not sampler.learns_from_past,
        "its data are others": manifest.data["digest"] != digest,
        "it was scored otherwise (trial.scoring)": old.trial.scoring != config.trial.scoring,
        "it searched by other metrics": old.searched_metrics != config.searched_metrics,
        "its folds are others (trial.split)": old.trial.split != config.trial.split,
        "its holdout is another, so its scores may have seen this one's": old.holdout.eras != config.holdout.eras,
        f"it has no arm {', '.join(lacking)}": bool(lacking),
    }
    if wrong := [reason for reason, holds in reasons.items() if holds]:
        raise SweepError(f"warm start from {manifest.name!r}: {'; '.join(wrong)}; start without")
