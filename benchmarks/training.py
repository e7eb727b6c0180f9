"""What the trainer costs, in time and in memory: python -m benchmarks.training --help."""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

import alignray as ar
from alignray.costs import Factors
from alignray.data import Panel, code_moments
from alignray.models import ModelConfig, build_model
from alignray.objectives import Objective, objective
from alignray.training import Members, Trainer, TrainingConfig
from benchmarks import machine
from benchmarks.markdown import table

_PACKAGES = ("alignray", "torch", "numpy")
_CPU = torch.device("cpu")
_EXACT = ar.Quadratic(1.0) + ar.SoftL1(0.05, 0.0) + ar.FactorPenalty(1.0)


class GivenGradient(Objective):
    """A loss whose gradient in p is given: what is left of a training step without any objective."""

    def evaluate(
        self,
        p: Tensor,
        y: Tensor,
        F: Tensor | Factors | None = None,  # noqa: ARG002
        mask: Tensor | None = None,  # noqa: ARG002
        previous: Tensor | None = None,  # noqa: ARG002
        warm: Tensor | None = None,  # noqa: ARG002
    ) -> tuple[Tensor, None]:
        """``p · y`` ``[R, B]``, whose gradient is y."""
        return (p * y).sum(-1), None


def trainer(
    panel: Panel, seeds: Sequence[int], arm: Objective, eras_per_batch: int, warm_starts: bool = True
) -> Trainer:
    """A trainer of the default network on all eras of a panel."""
    members = Members(ModelConfig(), panel.num_features, tuple(seeds), _CPU)
    config = TrainingConfig(eras_per_batch=eras_per_batch, warmup_epochs=0, warm_starts=warm_starts)
    return Trainer(config, members, arm, panel, range(panel.num_eras), seed=0)


def packed(quick: bool) -> str:
    """Eight members packed against eight runs one after the other, and how far apart their weights end.

    Beside it, how far apart two lone runs end whose first weights differ by a rounding: a step of AdamW does not go by
    the size of a gradient, so one that is all rounding may move a weight as far as any.
    """
    eras, rows, epochs = (8, 200, 2) if quick else (64, 1000, 5)
    panel = ar.datasets.synthetic(num_eras=eras, rows=rows, num_features=42, seed=0)
    rows_of_table = []
    for arm, eras_per_batch in itertools.product(("mse", "aligned"), (1, 8)):
        layer = ar.SolverLayer(_EXACT, on_failure="nan")

        def run(
            seeds: Sequence[int],
            scale: float = 1.0,
            arm: str = arm,
            layer: ar.SolverLayer = layer,
            eras_per_batch: int = eras_per_batch,
        ) -> tuple[float, Trainer]:
            running = trainer(panel, seeds, objective(arm, layer), eras_per_batch=eras_per_batch)
            with torch.no_grad():
                for value in running.members.parameters.values():
                    value *= scale
            running.run_epoch(0)  # warms up
            started = time.monotonic()
            for epoch in range(1, 1 + epochs):
                running.run_epoch(epoch)
            return time.monotonic() - started, running

        pairs = []
        for _ in range(3):
            together, of_all = run(range(8))
            alone = [run([seed]) for seed in range(8)]
            pairs.append((together, sum(seconds for seconds, _ in alone)))
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        nudged = [run([seed], scale=1 + torch.finfo(torch.float32).eps)[1] for seed in range(8)]
        lone = [running.members for _, running in alone]
        packed_apart = max(_apart(of_all.members, seed, one) for seed, one in enumerate(lone))
        nudged_apart = max(_apart(each.members, 0, one) for each, one in zip(nudged, lone, strict=True))
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        cells = [f"{ours:.2f}", f"{theirs:.2f}", f"**{ratio:.1f}×**", f"{packed_apart:.0e}", f"{nudged_apart:.0e}"]
        rows_of_table.append([arm, str(eras_per_batch), *cells])
    return (
        f"### Eight members: packed, and one after the other\n\n{eras} eras of {rows:,} × 42, {epochs} epochs after "
        "one that warms up, the default network; medians of 3 pairs of runs.\n\n"
        + table(
            [
                "objective",
                "eras a batch",
                "packed s",
                "one by one s",
                "ratio",
                "weights end apart by",
                "two lone runs, a rounding apart at first",
            ],
            rows_of_table,
        )
    )


@torch.no_grad()
def _apart(found: Members, member: int, lone: Members) -> float:
    """How far a member's weights are from those of the one that was trained alone, relative to the largest of each."""
    return max(
        float((value[member] - lone.parameters[name][0]).abs().max() / lone.parameters[name][0].abs().max())
        for name, value in found.parameters.items()
    )


def plain(quick: bool) -> str:
    """One member against a loop written plainly in PyTorch, for the same network and given gradients."""
    eras, rows, repeats = (8, 200, 3) if quick else (64, 1000, 15)
    panel = ar.datasets.synthetic(num_eras=eras, rows=rows, num_features=42, seed=0)
    layer = ar.SolverLayer(_EXACT, on_failure="nan")
    ours = trainer(panel, [0], GivenGradient(layer), eras_per_batch=8)
    whole = panel.batch(range(eras))
    mean, std = code_moments(panel.schema.bins or 0)
    codes = (whole.features * std + mean).round().to(torch.int8)
    theirs = _plain_epoch(codes, whole.target / rows / 8, mean, std)
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    for epoch in range(repeats + 1):
        for name, work in (("ours", lambda: ours.run_epoch(epoch)), ("theirs", theirs)):  # noqa: B023
            started = time.monotonic()
            work()
            seconds[name].append(time.monotonic() - started)
    mine, others = (1e3 * statistics.median(values[1:]) for values in seconds.values())
    ratio = statistics.median(a / b for a, b in zip(seconds["ours"][1:], seconds["theirs"][1:], strict=True))
    return (
        f"### One member beside plain PyTorch\n\nAn epoch on {eras} eras of {rows:,} × 42, 8 eras a batch, the same "
        "network and fused AdamW, int8 features in memory, the gradient in p given; medians of "
        f"{repeats} epochs, taken in turn.\n\n"
        + table(["alignray ms", "plain PyTorch ms", "ratio"], [[f"{mine:.1f}", f"{others:.1f}", f"**{ratio:.2f}**"]])
    )


def _plain_epoch(codes: Tensor, gradient: Tensor, mean: float, std: float) -> Callable[[], None]:
    """An epoch of the same training, as one would write it for one network."""
    model = build_model(ModelConfig(), codes.shape[-1], seed=0)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=1e-2, fused=True)

    def epoch() -> None:
        for eras in torch.randperm(len(codes)).split(8):
            p = model((codes[eras].float() - mean) / std).squeeze(-1)
            optimiser.zero_grad()
            p.backward(gradient[eras])
            optimiser.step()

    return epoch


def compiled(quick: bool) -> str:
    """The network alone, forward and backward, as members run it and through ``torch.compile``."""
    lines = []
    for count, rows in itertools.product((1, 8), (200,) if quick else (1000, 8000)):
        members = Members(ModelConfig(), 42, range(count), _CPU)
        features, gradient = torch.randn(rows // 100, 100, 42), torch.randn(count, rows // 100, 100)
        model = build_model(ModelConfig(), 42, seed=0).to("meta")

        def one(parameters: dict[str, Tensor], features: Tensor, model: nn.Module = model) -> Tensor:
            response: Tensor = torch.func.functional_call(model, parameters, (features,))
            return response.squeeze(-1)

        together = torch.compile(torch.func.vmap(one, in_dims=(0, None)))
        ways = {
            "members": members,
            "compiled": lambda features, members=members, together=together: together(members.parameters, features),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(3 if quick else 50):
            for name, way in ways.items():
                for value in members.parameters.values():
                    value.grad = None
                started = time.monotonic()
                way(features).backward(gradient)
                seconds[name].append(time.monotonic() - started)
        ours, theirs = (1e3 * statistics.median(values[1:]) for values in seconds.values())
        lines.append([str(count), f"{rows:,}", f"{ours:.2f}", f"{theirs:.2f}", f"**{ours / theirs:.2f}×**"])
    return (
        "### What compiling the network would gain\n\nForward and backward of the default network on 42 features, "
        "without the first call of each; medians, taken in turn.\n\n"
        + table(["members", "rows", "as it is ms", "compiled ms", "gain"], lines)
    )


def shares(quick: bool) -> str:
    """Where the time of an epoch goes, by epoch, and what warm starts save of it."""
    eras, rows, d, epochs = (8, 500, 60, 2) if quick else (24, 5000, 420, 8)
    panel = ar.datasets.synthetic(num_eras=eras, rows=rows, num_features=d, seed=0)
    arm = objective("aligned", ar.SolverLayer(_EXACT, on_failure="nan"))
    lines = []
    for eras_per_batch in (1, 8):
        cold, warm = (trainer(panel, [0], arm, eras_per_batch, warm_starts) for warm_starts in (False, True))
        for epoch in range(epochs):
            unaided, stats = cold.run_epoch(epoch), warm.run_epoch(epoch)
            rest = stats.seconds - stats.solver_seconds - stats.loader_seconds
            shares = (part / stats.seconds for part in (stats.solver_seconds, stats.loader_seconds, rest))
            of_cold = stats.solver_seconds / unaided.solver_seconds
            cells = [f"{stats.seconds:.2f}", *(f"{share:.1%}" for share in shares), f"**{of_cold:.2f}**"]
            lines.append([str(eras_per_batch), str(epoch), *cells])
    columns = ["eras a step", "epoch", "s", "solver", "waiting for data", "network and optimiser", "solver, of cold"]
    return (
        f"### Where an epoch's time goes\n\n{eras} eras of {rows:,} × {d}, all features also factors, exact L1, one "
        "member of the default network. The last column is the solver's time as a share of what it takes where every "
        "solve starts cold, the epochs of both taken in turn.\n\n" + table(columns, lines)
    )


def memory(quick: bool) -> str:
    """Peak memory by the number of members, each in a process of its own, against what one member has to hold."""
    rows, width = (500, 64) if quick else (5000, 256)
    counts = (1, 4) if quick else (1, 2, 4, 8, 16)
    found = [json.loads(_in_a_process(["--one-memory", str(count), str(rows), str(width)])) for count in counts]
    peaks = [entry["peak"] for entry in found]
    mean = statistics.mean(counts)
    slope = sum((c - mean) * peak for c, peak in zip(counts, peaks, strict=True)) / sum((c - mean) ** 2 for c in counts)
    one = found[0]["one"]
    lines = [[str(count), f"{peak / 2**20:.1f}"] for count, peak in zip(counts, peaks, strict=True)]
    return (
        f"### Memory\n\nThe growth of the peak over what was held before training, one step on one era of {rows:,} × "
        f"42, mse, width {width}. One member's parameters, gradients, optimiser state and activations are "
        f"{one / 2**20:.1f} MiB; a member more takes **{slope / one:.2f}×** that.\n\n"
        + table(["members", "MiB"], lines)
    )


def _one_memory(count: int, rows: int, width: int) -> None:
    panel = ar.datasets.synthetic(num_eras=1, rows=rows, num_features=42, seed=0)
    layer = ar.SolverLayer(_EXACT, on_failure="nan")
    members = Members(ModelConfig(width=width), 42, tuple(range(count)), _CPU)
    running = Trainer(
        TrainingConfig(eras_per_batch=1, warmup_epochs=0), members, objective("mse", layer), panel, [0], seed=0
    )
    warm = Members(ModelConfig(width=2), 42, (0,), _CPU)
    Trainer(TrainingConfig(warmup_epochs=0), warm, objective("mse", layer), panel, [0], seed=0).run_epoch(0)
    before = machine.reset_peak()
    running.run_epoch(0)
    peak = machine.resident("VmHWM") - before
    weights = sum(value[0].numel() for value in members.parameters.values())
    # Each hidden layer keeps what enters its activation and what leaves it; a weight has a gradient and two moments.
    activations = rows * 2 * 2 * width
    print(json.dumps({"peak": peak, "one": 4 * (4 * weights + activations)}))


def _in_a_process(arguments: Sequence[str]) -> str:
    command = [sys.executable, "-m", "benchmarks.training", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[-1]


_PARTS = {"packed": packed, "plain": plain, "shares": shares, "memory": memory, "compiled": compiled}
_ASKED_FOR = ("compiled",)
"""Left out unless they are asked for: compiling takes a C++ compiler, and its time."""


def main() -> None:
    """Measure what is asked for, and print a table each."""
    options = _options()
    if options.one_memory:
        _one_memory(*options.one_memory)
        return
    size = "Small sizes: whether it runs." if options.quick else "Full size."
    print(f"{machine.described(_PACKAGES)} {torch.get_num_threads()} threads of torch. {size}\n", flush=True)
    with machine.watched():
        for name in options.parts:
            print(f"{_PARTS[name](options.quick)}\n", flush=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see whether it runs")
    parser.add_argument(
        "--parts",
        nargs="+",
        choices=_PARTS,
        default=[name for name in _PARTS if name not in _ASKED_FOR],
        help=f"what to measure (all but {', '.join(_ASKED_FOR)})",
    )
    parser.add_argument("--one-memory", nargs=3, type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
