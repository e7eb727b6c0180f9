"""Runs the benchmark and prints its tables: python -m benchmarks.solver --help."""

from __future__ import annotations

import argparse
from dataclasses import replace

from benchmarks import machine
from benchmarks.solver import parts
from benchmarks.solver.contestants import RIVALS
from benchmarks.solver.problem import Size

_PARTS = ("aligned", "pairs", "growth", "batch")
_PACKAGES = ("alignray", "torch", "numpy", "cvxpy", "cvxpylayers", "diffcp", "scs", "clarabel", "moreau")
_SIZES = ("1000x50", "1000x50x32", "2000x150", "5000x420", "6000x2000")
_QUICK_SIZES = ("300x10", "300x10x4", "600x40")
_LARGE = (Size.parse("6000x2000"),)
_BATCH, _CPU_ERAS = Size.parse("5000x420x64"), 4
_TINY_BATCH = Size.parse("400x30x4")


def main() -> None:
    """Measure what the command line asks for, and print each table once it is there."""
    options = _options()
    chosen = options.sizes or [Size.parse(text) for text in (_QUICK_SIZES if options.quick else _SIZES)]
    sizes = [each for size in chosen for each in _with_own_factors(size)]
    rivals = [rival.name for rival in RIVALS if not (options.quick and rival.setting == "defaults")]
    rivals = rivals if options.rivals is None else options.rivals
    effort = parts.Effort(options.repeats or (3 if options.quick else 7), options.limit)
    print(f"{machine.described(_PACKAGES)}\n\nMedians of {effort.repeats} repeats.\n", flush=True)
    with machine.watched():
        if "aligned" in options.parts:
            rows = parts.measure_aligned(sizes, rivals, () if options.all else _LARGE, effort)
            _show("Forward and backward of the aligned objective", parts.aligned_table(rows))
            _show("Ratios", parts.ratio_table(rows))
        if "pairs" in options.parts:
            single = [size for size in sizes if size.eras is None]
            _show("Cold and warm solves", parts.pass_pair_table(single, effort))
        if "growth" in options.parts:
            unit, base = (10, 200) if options.quick else (50, 1000)
            fixed_k = [Size(base * factor, 2 * unit) for factor in (1, 2, 4, 8)]
            fixed_n = [Size(4 * base, unit * factor) for factor in (1, 2, 4, 8)]
            _show("Growth", parts.growth_table(fixed_k, fixed_n, effort))
        if "batch" in options.parts:
            _show("A large batch with int8 factors", _batch(options.gpu_code_on_cpu, effort))


def _options() -> argparse.Namespace:
    names = [rival.name for rival in RIVALS]
    parser = argparse.ArgumentParser("python -m benchmarks.solver", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, 3 repeats, the rivals at their best: to see whether it runs"
    )
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=_PARTS, help="what to measure (all)")
    parser.add_argument(
        "--sizes", nargs="+", type=Size.parse, metavar="NxK[xERAS]", help=f"instead of {' '.join(_SIZES)}"
    )
    parser.add_argument("--rivals", nargs="*", choices=names, metavar="NAME", help=f"of {', '.join(names)} (all)")
    parser.add_argument("--repeats", type=int, help="timed repeats (7)")
    parser.add_argument("--limit", type=float, default=180.0, help="seconds a process may take (180)")
    parser.add_argument("--all", action="store_true", help=f"the rivals also at {_LARGE[0]}")
    parser.add_argument(
        "--gpu-code-on-cpu", action="store_true", help="without a GPU, run its part on the CPU, with a tiny batch"
    )
    return parser.parse_args()


def _with_own_factors(size: Size) -> list[Size]:
    """A batch whose eras share F, which the rivals can take, and one with an F each, which they cannot."""
    return [size] if size.eras is None else [size, replace(size, shared=False)]


def _batch(on_cpu: bool, effort: parts.Effort) -> str:
    import torch

    if torch.cuda.is_available():
        return parts.batch_table(parts.measure_batches(_BATCH, ("cuda", "cpu"), _CPU_ERAS, effort))
    if on_cpu:
        assert _TINY_BATCH.eras is not None
        return parts.batch_table(parts.measure_batches(_TINY_BATCH, ("cpu",), _TINY_BATCH.eras, effort))
    return "No CUDA device: left out."


def _show(title: str, table: str) -> None:
    print(f"### {title}\n\n{table}\n", flush=True)


if __name__ == "__main__":
    main()
