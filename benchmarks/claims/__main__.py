"""Puts the library's claims to the test, and prints what comes out: python -m benchmarks.claims --help."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import machine
from benchmarks.claims import closed_form, derivatives, proofs, regions, sobolev, strengths
from benchmarks.claims.plots import write_png
from benchmarks.claims.pool import Pool
from benchmarks.claims.report import Section, write_page

_PACKAGES = ("alignray", "torch", "numpy", "cvxpy", "cvxpylayers", "diffcp", "scs")


@dataclass(frozen=True, slots=True)
class Part:
    """A part, and its two sizes."""

    run: Callable[[Pool, Any], Section]
    full: Any
    quick: Any


_PARTS = {
    "a": Part(proofs.run, proofs.FULL, proofs.QUICK),
    "b": Part(strengths.run, strengths.FULL, strengths.QUICK),
    "c": Part(regions.run, regions.FULL, regions.QUICK),
    "d": Part(closed_form.run, closed_form.FULL, closed_form.QUICK),
    "e": Part(derivatives.run, derivatives.FULL, derivatives.QUICK),
    "sobolev": Part(sobolev.run, sobolev.FULL, sobolev.QUICK),
}


def main() -> None:
    """Run the parts that are asked for, print each one's report once it is there, and draw the figures."""
    options = _options()
    options.out.mkdir(parents=True, exist_ok=True)
    about = machine.described(_PACKAGES)
    size = "small sizes, which show that it runs and no more" if options.quick else "full size"
    print(f"{about} {options.processes} processes, {size}.\n", flush=True)
    with machine.watched():
        sections = []
        with Pool(options.processes) as pool:
            for name in options.parts:
                part, since = _PARTS[name], time.monotonic()
                section = part.run(pool, part.quick if options.quick else part.full)
                sections.append(section)
                for figure in section.figures:
                    write_png(figure, options.out)
                print(f"{section.markdown()}\n\n{time.monotonic() - since:.0f} seconds.\n", flush=True)
        write_page(
            "The claims, put to the test", f"{about} {size.capitalize()}.", sections, options.out / "claims.html"
        )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: to see whether it runs")
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to run (all)")
    parser.add_argument("--out", type=Path, default=Path("claims"), help="the folder for figures and the page (claims)")
    parser.add_argument("--processes", type=int, default=machine.cores(), help="processes (the cores there are)")
    return parser.parse_args()


if __name__ == "__main__":
    # Before any process starts: a thread each, and numbers that do not depend on how many cores there are.
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    main()
