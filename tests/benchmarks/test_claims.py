"""What the claims' report is made of can be trusted, and the command runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch

import alignray as ar
from alignray.statistics import Interval
from benchmarks.claims import descents, estimates, regions, strengths
from benchmarks.claims.plots import Curve, Figure, write_png
from benchmarks.claims.report import Section, Table, write_page
from benchmarks.claims.training import LAST, STOPPED, World, configured, rescaled, scored, trained

ROOT = Path(__file__).parents[2]
SMALL = World(stable=0.2, unstable=0.2, noise=0.6, eras=(12, 6, 6), rows=30, features=10)


def test_a_t_interval_is_scipys_and_leaves_out_what_is_no_number():
    values = np.random.default_rng(0).normal(1, 2, 9)
    found = estimates.over_seeds([*values, np.nan])
    expected = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.missing == 1


def test_one_seed_has_no_interval():
    found = estimates.over_seeds([2.0])
    assert found.value == 2.0
    assert np.isnan([found.low, found.high]).all()
    assert estimates.sign(found) == 0


@pytest.mark.parametrize("count", [5, 6, 9, 12])
def test_the_interval_of_a_median_covers_it_often_enough(count):
    samples = np.random.default_rng(count).standard_cauchy((4000, count))
    found = [estimates.median_over_seeds(sample) for sample in samples]
    if count < 6:
        assert np.isnan(found[0].low)
        return
    covered = np.mean([each.low <= 0 <= each.high for each in found])
    assert 0.95 - 0.01 < covered < 0.995


def test_signs_are_told_only_where_the_interval_excludes_0():
    intervals = [Interval(1, 0.5, 2), Interval(1, -0.5, 2), Interval(-1, -2, -0.5), Interval(1, np.nan, np.nan)]
    assert [estimates.sign(each) for each in intervals] == [1, 0, -1, 0]
    counted = estimates.tally([1, 0, -1, 0], "aligned", "mse")
    assert counted == "aligned beats mse in 1 of 4, is beaten in 1, and 2 are undecided"


def test_an_annulled_direction_is_not_seen():
    # Under Fᵀx = 0 a shift of p along F changes no decision.
    layer = ar.SolverLayer(descents.COSTS["neutral"], tol=1e-11)
    era = descents.Era.drawn(1)
    shifted = era.y + (era.F @ torch.ones(era.F.shape[-1], 1, dtype=torch.float64)).squeeze(-1)
    assert descents._seen(layer, era, 0, shifted[0]) < 1e-8 * float((shifted - era.y).norm())


@pytest.mark.parametrize("name", descents.COSTS)
def test_the_identities_hold(name):
    found = descents.identities(2, name)
    for errors in (found.aligned_by_loss, found.aligned_by_jacobian, found.misaligned_by_jacobian):
        assert max(errors) < 1e-8
    assert max(found.divergence) < 1e-5
    assert found.least_divergence > 0
    assert min(found.misaligned_at_truth) > 0.1


@pytest.mark.parametrize("change", strengths.CHANGES)
def test_a_change_multiplies_the_strengths_it_names_alone(change):
    what, by = change
    before, after = (cost.strengths for cost in (strengths._COST, strengths._changed(strengths._COST, change)))
    moved = {name for name in before if after[name] != before[name]}
    expected = {"all strengths": set(before), "factor penalties": {"factor_penalty.strength"}}[what]
    assert moved == (set() if by == 1 else expected)
    assert all(after[name] == by * before[name] for name in moved)


def test_cells_are_made_of_the_levels_they_name():
    cell = regions.Cell("weak", "high", "strong", "exact", "3 units")
    assert cell.world.stable + cell.world.unstable + cell.world.noise == pytest.approx(1)
    assert cell.world.noise == pytest.approx(0.9 * 0.95)
    assert cell.cost.strengths["factor_penalty.strength"] == 0.5
    assert cell.cost.strengths["soft_l1.strength"] == pytest.approx(0.5 * cell.world.scale)


def test_nobody_beats_the_oracle_by_much_and_a_multiple_of_it_is_worse():
    cost = ar.Cost.of(ar.Quadratic(1.0))
    world = World(stable=0.3, unstable=0.1, noise=0.6, eras=(1, 1, 200), rows=100)
    panel = world.panel(0)
    best = world.oracle_utility(panel, cost)
    y = panel.batch(world.held_out).target.double()
    p = ar.datasets.synthetic_oracle(panel.batch(world.held_out), stable=world.stable)
    for factor in (0.5, 1.5):
        q = factor * p
        assert float(((y * q).sum(-1) - cost(q)).mean()) < best


def test_rescaling_makes_a_prediction_calibrated_and_changes_nothing_else():
    panel = SMALL.panel(0)
    config = configured("misaligned", ar.Quadratic(1.0), ar.ModelConfig(width=8), 3, members=2, seed=0)
    trial = trained(config, panel, SMALL.fold)
    assert set(trial.states) == {STOPPED, LAST}
    members = trial.states[LAST]
    mended = rescaled(members, config, panel, SMALL.fold.validation)
    before, after = (scored(each, config, panel, SMALL.fold.validation) for each in (members, mended))
    np.testing.assert_allclose(np.abs(after.series["corr"]), np.abs(before.series["corr"]), atol=1e-5)
    batch = panel.batch(SMALL.fold.validation)
    p, y = mended(batch.features).double() * batch.mask, batch.target.double()
    slopes = (p * y).sum((-1, -2)) / p.square().sum((-1, -2))
    torch.testing.assert_close(slopes, torch.ones_like(slopes), rtol=1e-4, atol=0)


def test_the_last_state_is_that_of_a_trial_that_never_stops():
    panel = SMALL.panel(1)
    short, long = (
        configured("mse", ar.Quadratic(1.0), ar.ModelConfig(width=8), epochs, members=1, seed=0) for epochs in (2, 4)
    )
    states = [trained(config, panel, SMALL.fold).states[LAST].state() for config in (short, long)]
    assert any(not torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_figures_and_page_are_written_whole(tmp_path):
    curve = Curve.of("a <b>", [1, 2], [Interval(1, 0.5, 2), Interval(2, np.nan, np.nan)])
    figure = Figure("drawn", "a & b", "x", "y", (curve, Curve("c", (1.0, 2.0), (1.0, 3.0))), log_y=True)
    section = Section("title", "verdict", (Table("caption", ("one", "two"), (("1", "a | b"),)),), (figure,))
    assert section.markdown().splitlines()[-1] == "| 1 | a ¦ b |"
    png = write_png(figure, tmp_path).read_bytes()
    assert png.startswith(b"\x89PNG")
    write_page("The claims", "somewhere", [section], tmp_path / "claims.html")
    page = (tmp_path / "claims.html").read_text()
    assert "prefers-color-scheme: dark" in page
    assert not re.findall(r"<(?:script|link|img)[^>]+(?:src|href)=", page), "the page needs another file"
    assert 'id="drawn"' in page
    assert "a &amp; b" in page


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_command_reports_and_draws_and_repeats_exactly(tmp_path):
    runs = [command(tmp_path / name, processes) for name, processes in (("one", "1"), ("two", "2"))]
    for report in runs:
        assert re.findall(r"^### (\(\w\)(?:, in training)?)", report, re.MULTILINE) == PARTS
        assert "nan" not in report
    # Timings aside, which are part (d), nothing depends on the number of processes.
    tables = [
        re.findall(r"^\| .*$", re.sub(r"### \(d\).*?(?=### \(e\))", "", run, flags=re.DOTALL), re.M) for run in runs
    ]
    assert tables[0] == tables[1]
    assert len(tables[0]) > 60
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert {"claims.html", "a_aligned.png", "a_misaligned.png", "b_calibration.png", "b_all_strengths.png"} <= names
    assert {"c_3_units.png", "d_time.png", "e_example.png", "e_training.png"} <= names


PARTS = ["(a)", "(b)", "(c)", "(d)", "(e)", "(e), in training"]


def command(folder: Path, processes: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.claims", "--quick", "--out", str(folder), "--processes", processes],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=440,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
