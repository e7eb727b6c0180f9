"""Train networks through a convex solver, and sweep them over a Ray cluster.

    import alignray as ar

    cost = ar.Quadratic(1.0) + ar.SoftL1(0.15, width=0.05) + ar.FactorPenalty(10.0)
    layer = ar.SolverLayer(cost)
    loss = ar.objective("aligned", layer)

Names are imported when they are first used: ``import alignray`` loads neither torch, Ray, Optuna nor MLflow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from alignray import diagnostics, metrics
    from alignray.costs import (
        Box,
        Cost,
        CvxpyDecision,
        CvxpyTerm,
        FactorNeutral,
        FactorPenalty,
        Factors,
        Quadratic,
        SeparableTerm,
        SoftL1,
        SumNeutral,
        Turnover,
    )
    from alignray.data import Panel, blocked, datasets, open_shards, walk_forward, write_shards
    from alignray.diagnostics import DiagnosticsConfig
    from alignray.imports import import_code
    from alignray.launch import SweepResult, resume_sweep, run_sweep
    from alignray.models import CrossConfig, ModelConfig, TabmConfig
    from alignray.objectives import DecisionLoss, objective, regret
    from alignray.search import Choice, Float, Int, SearchConfig, Space
    from alignray.solver import Solution, SolverLayer
    from alignray.sweep import DataConfig, HoldoutConfig, ResourceConfig, SchedulerConfig, SweepConfig, SyntheticConfig
    from alignray.training import AnnealingConfig, AveragingConfig, OptimiserConfig, ScheduleConfig, TrainingConfig
    from alignray.trial import Change, ScoringConfig, SolverConfig, SplitConfig, TrialConfig, run_trial

__version__ = "0.1.0"

_EXPORTS = {
    "AnnealingConfig": "alignray.training",
    "AveragingConfig": "alignray.training",
    "blocked": "alignray.data",
    "Box": "alignray.costs",
    "Change": "alignray.trial",
    "Choice": "alignray.search",
    "Cost": "alignray.costs",
    "CrossConfig": "alignray.models",
    "CvxpyDecision": "alignray.costs",
    "CvxpyTerm": "alignray.costs",
    "DataConfig": "alignray.sweep",
    "datasets": "alignray.data.datasets",
    "DecisionLoss": "alignray.objectives",
    "diagnostics": "alignray.diagnostics",
    "DiagnosticsConfig": "alignray.diagnostics",
    "FactorNeutral": "alignray.costs",
    "FactorPenalty": "alignray.costs",
    "Factors": "alignray.costs",
    "Float": "alignray.search",
    "HoldoutConfig": "alignray.sweep",
    "import_code": "alignray.imports",
    "Int": "alignray.search",
    "metrics": "alignray.metrics",
    "ModelConfig": "alignray.models",
    "objective": "alignray.objectives",
    "open_shards": "alignray.data",
    "OptimiserConfig": "alignray.training",
    "Panel": "alignray.data",
    "Quadratic": "alignray.costs",
    "regret": "alignray.objectives",
    "ResourceConfig": "alignray.sweep",
    "resume_sweep": "alignray.launch",
    "run_sweep": "alignray.launch",
    "run_trial": "alignray.trial",
    "ScheduleConfig": "alignray.training",
    "SchedulerConfig": "alignray.sweep",
    "ScoringConfig": "alignray.trial",
    "SearchConfig": "alignray.search",
    "SeparableTerm": "alignray.costs",
    "SoftL1": "alignray.costs",
    "SumNeutral": "alignray.costs",
    "Turnover": "alignray.costs",
    "Solution": "alignray.solver",
    "SolverConfig": "alignray.trial",
    "SolverLayer": "alignray.solver",
    "Space": "alignray.search",
    "SplitConfig": "alignray.trial",
    "SweepConfig": "alignray.sweep",
    "SweepResult": "alignray.launch",
    "SyntheticConfig": "alignray.sweep",
    "TabmConfig": "alignray.models",
    "TrainingConfig": "alignray.training",
    "TrialConfig": "alignray.trial",
    "walk_forward": "alignray.data",
    "write_shards": "alignray.data",
}

__all__ = [
    "AnnealingConfig",
    "AveragingConfig",
    "Box",
    "Change",
    "Choice",
    "Cost",
    "CrossConfig",
    "CvxpyDecision",
    "CvxpyTerm",
    "DataConfig",
    "DecisionLoss",
    "DiagnosticsConfig",
    "FactorNeutral",
    "FactorPenalty",
    "Factors",
    "Float",
    "HoldoutConfig",
    "Int",
    "ModelConfig",
    "OptimiserConfig",
    "Panel",
    "Quadratic",
    "ResourceConfig",
    "ScheduleConfig",
    "SchedulerConfig",
    "ScoringConfig",
    "SearchConfig",
    "SeparableTerm",
    "SoftL1",
    "Solution",
    "SolverConfig",
    "SolverLayer",
    "Space",
    "SplitConfig",
    "SumNeutral",
    "SweepConfig",
    "SweepResult",
    "SyntheticConfig",
    "TabmConfig",
    "TrainingConfig",
    "TrialConfig",
    "Turnover",
    "blocked",
    "datasets",
    "diagnostics",
    "import_code",
    "metrics",
    "objective",
    "open_shards",
    "regret",
    "resume_sweep",
    "run_sweep",
    "run_trial",
    "walk_forward",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'alignray' has no attribute {name!r}")
    module = importlib.import_module(_EXPORTS[name])
    return module if module.__name__.endswith(f".{name}") else getattr(module, name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
