"""The benchmark of training: every part prints its table, and both sides of a comparison train the same."""

from __future__ import annotations

import pytest
import torch

import alignray as ar
from alignray.objectives import objective
from benchmarks import training


def test_every_part_prints_its_table(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["training", "--quick"])
    training.main()
    printed = capsys.readouterr().out
    for title in ("Eight members", "One member beside plain PyTorch", "Where an epoch's time goes", "Memory"):
        assert f"### {title}" in printed


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method.*:DeprecationWarning")  # torch's own
def test_so_does_the_one_that_compiles():
    assert "| 8 | 200 | " in training.compiled(quick=True)


def test_plain_pytorch_trains_what_the_trainer_does(monkeypatch):
    panel = ar.datasets.synthetic(num_eras=8, rows=30, num_features=6, seed=0)
    layer = ar.SolverLayer(ar.Quadratic(1.0))
    ours = training.trainer(panel, [0], training.GivenGradient(layer), eras_per_batch=8)
    batch = panel.batch(range(8))
    codes = (batch.features * 2**0.5 + 2).round().to(torch.int8)
    models = []
    build = training.build_model
    monkeypatch.setattr(
        training, "build_model", lambda *args, **kwargs: models.append(build(*args, **kwargs)) or models[0]
    )
    rows = batch.mask.sum(-1, keepdim=True)
    theirs = training._plain_epoch(codes, batch.target / rows / 8, 2.0, 2**0.5)
    for epoch in range(3):
        ours.run_epoch(epoch)
        theirs()
    for name, value in models[0].named_parameters():
        if name == "4.bias":  # targets have mean 0: its gradient is rounding, of which Adam makes steps of full size
            continue
        torch.testing.assert_close(ours.members.parameters[name][0], value, rtol=1e-4, atol=1e-5)


def test_packed_members_are_those_that_train_alone():
    panel = ar.datasets.synthetic(num_eras=6, rows=30, num_features=6, seed=0)
    arm = objective("mse", ar.SolverLayer(ar.Quadratic(1.0)))
    together = training.trainer(panel, range(3), arm, eras_per_batch=3)
    alone = training.trainer(panel, [1], arm, eras_per_batch=3)
    together.run_epoch(0)
    alone.run_epoch(0)
    apart = training._apart(together.members, 1, alone.members)
    assert apart == pytest.approx(0, abs=1e-5)
