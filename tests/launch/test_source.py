"""Configurations as Python: they come back as they were, laid out as ruff lays them out."""

import dataclasses
import subprocess
import sys

import pytest
from tiny_sweep import tiny_sweep

import alignray as ar
from alignray.launch import find_sweep, list_templates, sweep_source

LONG = (
    ar.Quadratic(1.0)
    + ar.SoftL1(0.05, width=0.02)
    + ar.FactorPenalty(0.1)
    + ar.Box(0.3333333333333)
    + ar.SumNeutral()
    + ar.SoftL1(1e-07, width=0.2)
)
MANY = ("mlp", "resmlp", "tabm", "cross")
CONDITIONS = {
    "model.family": ar.Choice(("linear", *MANY)),
    "model.depth": ar.Int(1, 3, log=True, when={"model.family": ("mlp",)}),
    "model.width": ar.Choice(tuple(range(1_000_000, 1_000_016)), when={"model.family": MANY}),
    "model.residual": ar.Choice((False, True), when={"model.family": MANY, "model.width": (1_000_000,)}),
    "model.dropout": ar.Float(
        0.0,
        0.4,
        when={"model.family": MANY, "model.depth": (1, 2, 3), "model.width": tuple(range(1_000_000, 1_000_009))},
    ),
}
CONFIGS = {
    **{name: find_sweep(name) for name in list_templates()},
    "tiny": tiny_sweep(),
    "a long cost": tiny_sweep(trial=ar.TrialConfig(cost=LONG, scoring=ar.ScoringConfig(cost=LONG))),
    "one term": tiny_sweep(
        trial=ar.TrialConfig(cost=ar.Quadratic(2), scoring=ar.ScoringConfig(cost=ar.Quadratic(1.0))),
        space=ar.Space({}),
        arms=("mse",),
    ),
    "conditions": tiny_sweep(space=ar.Space(CONDITIONS)),
    "texts": tiny_sweep(
        data=ar.DataConfig(
            source="x" * 130, features=tuple(f"feature_{n}" for n in range(20)), factors=('a"b', "it's", "\\ü\n", "'\"")
        )
    ),
    "optional parts": tiny_sweep(
        trial=dataclasses.replace(
            tiny_sweep().trial,
            diagnostics=ar.DiagnosticsConfig(every=2),
            training=ar.TrainingConfig(optimiser=ar.OptimiserConfig(schedule=ar.ScheduleConfig(name="cosine"))),
            split=ar.SplitConfig(scheme="rolling", window=5),
        ),
        resources=ar.ResourceConfig(gpus_per_trial=0.25, gpu_hours=1e9),
    ),
}


def made_by(text):
    namespace = {}
    exec(text, namespace)
    return namespace["sweep"]()


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_source_makes_the_configuration_and_ruff_leaves_it(config):
    text = sweep_source(config, "A sweep.\n\nAnd more of it.")
    assert made_by(text) == config
    ruff = [sys.executable, "-m", "ruff"]
    for check in (["format", "--check", "-"], ["check", "--ignore", "E501", "-"]):
        done = subprocess.run([*ruff, *check], input=text, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr + text


def test_what_has_its_default_is_left_out():
    text = sweep_source(tiny_sweep(), "A sweep.")
    assert "solver" not in text
    assert "resources" not in text
    assert text.startswith('"""A sweep."""\n')
