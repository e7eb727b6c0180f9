"""The three records of a sweep (the journal, MLflow, the table), held against one another."""

import pandas as pd
import pytest
from optuna.trial import TrialState
from rig import ARMS, EPOCHS, NAME

ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


def ended(trials):
    return {key for key, trial in trials.items() if trial.state in ENDED}


def require_whole(rig):
    """The sweep is finished, and its three records agree: the journal, MLflow, and the table."""
    trials, runs = rig.trials(), rig.runs()
    assert set(trials) == rig.keys
    assert {trial.state for trial in trials.values()} == {TrialState.COMPLETE}
    assert set(runs) == {NAME, *rig.keys, *(f"{arm}-final" for arm in ARMS)}
    assert runs[NAME]["status"] == "FINISHED"
    for key, trial in trials.items():
        run = runs[key]
        assert (run["status"], run["tags"]["alignray.state"]) == ("FINISHED", "complete"), key
        assert run["parent"] == runs[NAME]["id"]
        assert {path: run["params"][path] for path in trial.params} == {p: str(v) for p, v in trial.params.items()}
        for name, history in run["metrics"].items():
            assert [step for step, _, _ in history] == list(range(1, EPOCHS + 1)), (key, name)
        assert max(value for _, _, value in run["metrics"]["val/corr"]) == trial.value
        # A driver that dies may miss an epoch that a checkpoint is already past; never the last.
        assert set(range(1, EPOCHS + 1)) >= set(trial.intermediate_values) >= {EPOCHS}
    comparison = pd.read_csv(rig.folder / "comparison.csv")
    for arm in ARMS:
        final = runs[f"{arm}-final"]
        assert final["status"] == "FINISHED"
        for row in comparison[comparison["arm"] == arm].itertuples():
            ((step, _, value),) = final["metrics"][f"holdout/{row.metric}"]
            assert (step, value) == (EPOCHS + 1, pytest.approx(row.value, rel=1e-12))
        for name in ("train/loss", "val/corr"):
            assert [step for step, _, _ in final["metrics"][name]] == list(range(1, EPOCHS + 1))
    assert not list((rig.folder / "tune" / "checkpoints").glob("*"))


def numbers(rig):
    """What a sweep found out, without the times that it took and its looks at the holdout."""
    trials = {key: (trial.params, trial.value, trial.last_step) for key, trial in rig.trials().items()}
    metrics = {
        key: {
            name: [(s, v) for s, _, v in history]
            for name, history in run["metrics"].items()
            if not name.startswith(("time/", "system/"))
        }
        for key, run in rig.runs().items()
    }
    comparison = pd.read_csv(rig.folder / "comparison.csv")
    return trials, metrics, comparison.drop(columns=["looks", "core_hours", "gpu_hours"]).to_csv()


def require_untouched(before, after, keys):
    for key in keys:
        assert after[key] == before[key], key
