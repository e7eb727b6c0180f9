"""What a sweep tells MLflow: its runs, by the schema of tags and params."""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from alignray.configuration import flatten, from_plain, replace_at, to_plain
from alignray.imports import UserCode
from alignray.search import Proposal
from alignray.sweep.config import SweepConfig
from alignray.sweep.environment import command_line
from alignray.sweep.manifest import Manifest
from alignray.tracking import SWEEP_KEY, RunEnd, RunNote, RunStart
from alignray.trial import TrialConfig

_CONFIG, _DIGEST, _CODE = "alignray.config", "alignray.data_digest", "alignray.code"
COURSE = "alignray.course"
"""The tag of what a trial was trained under, from the start, where that changed on the way."""
_TAG_LENGTH = 5_000
"""Characters of a tag: no store of MLflow takes fewer, and a configuration has about 2,500."""
_EXTENDED = ("search.trials", "resources.time_budget_s")


def sweep_start(manifest: Manifest) -> RunStart:
    """The sweep's own run, the parent of the others, begins or goes on."""
    params = {name: value for name, value in flatten(to_plain(manifest.config)).items() if value is not None}
    tags = _tags(manifest, "sweep", manifest.name) | {
        _DIGEST: manifest.data["digest"],
        "alignray.command": command_line(),
        "alignray.host": socket.gethostname(),
        "alignray.versions": " ".join(f"{name}={version}" for name, version in manifest.versions.items()),
    }
    if manifest.code:
        tags[_CODE] = json.dumps(manifest.code)
    if manifest.extensions:  # MLflow keeps the params that a run began with, and refuses others
        tags |= {f"alignray.{name}": str(params.pop(name, None)) for name in _EXTENDED}
    text = json.dumps(to_plain(manifest.config))
    for part, start in enumerate(range(0, len(text), _TAG_LENGTH)):
        tags[f"{_CONFIG}.{part}"] = text[start : start + _TAG_LENGTH]
    return RunStart(key=SWEEP_KEY, tags=tags, params=params)


def config_of_tags(tags: Mapping[str, str]) -> SweepConfig | None:
    """The configuration that the tags of a sweep's own run hold, with the digest of its data; None if they hold none.

    Params would not do: they are texts without types, and a space is drawn in an order that they lack.

    Raises:
        SweepError: Code of the user's own that it names is gone, or has changed since.
    """
    parts = [tags[f"{_CONFIG}.{part}"] for part in range(len(tags)) if f"{_CONFIG}.{part}" in tags]
    if not parts:
        return None
    plain = json.loads("".join(parts))
    code = UserCode.of(plain.get("imports", []))
    code.require(json.loads(tags.get(_CODE, "{}")), tags["alignray.sweep"])
    code.load()
    return replace_at(from_plain(SweepConfig, plain), {"data.digest": tags[_DIGEST]})


def trial_start(manifest: Manifest, proposal: Proposal) -> RunStart:
    """The run of a trial begins or goes on.

    Its params are what it was proposed with, for MLflow keeps those that a run began with; what its state has come from
    since, where that is another trial's, is a tag.
    """
    tags = _tags(manifest, "trial", proposal.key) | _arm_tags(proposal)
    config = replace(proposal, course=None).config(manifest.config.base)
    return _child_start(manifest, proposal.key, tags, config, context="training")


def final_start(manifest: Manifest, best: Proposal, config: TrialConfig, key: str) -> RunStart:
    """The run of an arm's final model begins or goes on; ``best`` is the trial that it is trained after."""
    return _child_start(manifest, key, _tags(manifest, "final", key) | _arm_tags(best), config, context="holdout")


def run_end(key: str, state: str, reason: str | None = None) -> RunEnd:
    """The run of a trial or a final model ends, ``complete``, ``pruned`` or ``failed``."""
    tags = {"alignray.state": state, **({"alignray.reason": reason} if reason else {})}
    return RunEnd(key=key, status="FAILED" if state == "failed" else "FINISHED", tags=tags)


def final_key(arm: str, generation: int) -> str:
    """The name of an arm's final run within its sweep; from the second on they are numbered."""
    return f"{arm}-final" if generation == 1 else f"{arm}-final-{generation}"


def superseded(key: str) -> RunNote:
    """A final model is no longer that of its arm's best trial."""
    return RunNote(key=key, tags={"alignray.superseded": "true"})


def _tags(manifest: Manifest, kind: str, name: str) -> dict[str, str]:
    code = {} if manifest.git_commit is None else {"mlflow.source.git.commit": manifest.git_commit}
    return code | {
        "alignray.kind": kind,
        "alignray.sweep": manifest.name,
        "alignray.template": manifest.config.template,
        "mlflow.runName": name,
        "mlflow.source.name": f"alignray run {manifest.config.template}",
        "mlflow.source.type": "JOB",
    }


def _arm_tags(proposal: Proposal) -> dict[str, str]:
    course = {} if proposal.course is None else {COURSE: json.dumps(to_plain(proposal.course))}
    return {"alignray.objective": proposal.arm, "alignray.trial": str(proposal.number), **course}


def _child_start(manifest: Manifest, key: str, tags: dict[str, str], config: TrialConfig, *, context: str) -> RunStart:
    data = manifest.data
    dataset = {
        "digest": data["digest"],
        "source_type": "alignray.panel",
        "source": json.dumps({"source": data["source"], "sha256": data["digest"]}),
        "profile": json.dumps({key: data[key] for key in ("eras", "rows", "features", "factors")}),
        "context": context,
    }
    return RunStart(
        key=key,
        tags=tags,
        params=flatten(to_plain(config)),
        parent=SWEEP_KEY,
        datasets={Path(str(data["source"])).stem: dataset},
    )
