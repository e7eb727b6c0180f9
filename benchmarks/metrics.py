"""How fast the metrics are beside numerai_tools, and whether both agree: python -m benchmarks.metrics --help."""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from alignray import metrics
from benchmarks import machine

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from numerai_tools import scoring

AGREEMENT = 1e-10
_PACKAGES = ("alignray", "torch", "numpy", "pandas", "scipy", "numerai-tools")


@dataclass(frozen=True, slots=True)
class Eras:
    """Predictions ``[B, n]``, int8 features ``[B, n, k]`` in five bins, targets ``[B, n]`` in five bins."""

    p: Tensor
    F: Tensor
    y: Tensor

    @classmethod
    def make(cls, eras: int, rows: int, features: int, seed: int) -> Eras:
        """Eras in Numerai's layout: a prediction that leans on the features, a target that knows a little of both."""
        rng = np.random.default_rng(seed)
        F = rng.integers(0, 5, size=(eras, rows, features)).astype(np.int8)
        lean = (F[..., ::3].sum(-1) - F[..., 1::3].sum(-1)) / features**0.5
        p = rng.normal(size=(eras, rows)) + 0.5 * lean
        y = np.clip(np.round(2 + 0.1 * p + rng.normal(size=(eras, rows))), 0, 4) / 4
        return cls(torch.from_numpy(p), torch.from_numpy(F), torch.from_numpy(y))

    def frames(self) -> list[Frames]:
        """The same eras as numerai_tools takes them, with ids like Numerai's."""
        names = [f"feature_{column}" for column in range(self.F.shape[-1])]
        frames = []
        for era in range(len(self.p)):
            ids = pd.Index([f"n{era:04x}{row:011x}" for row in range(self.p.shape[-1])], name="id")
            p = pd.DataFrame({"prediction": self.p[era].numpy()}, index=ids)
            F = pd.DataFrame(self.F[era].numpy(), index=ids, columns=names)
            frames.append(Frames(p, F, pd.Series(self.y[era].numpy(), index=ids, name="target")))
        return frames


@dataclass(frozen=True, slots=True)
class Frames:
    """One era in pandas."""

    p: pd.DataFrame
    F: pd.DataFrame
    y: pd.Series


@dataclass(frozen=True, slots=True)
class Row:
    """One metric, computed by both sides."""

    name: str
    ours: Callable[[Eras], Tensor]
    theirs: Callable[[Frames], float]


ROWS = (
    Row(
        "numerai_corr",
        lambda eras: metrics.numerai_corr(eras.p, eras.y),
        lambda era: scoring.numerai_corr(era.p, era.y)["prediction"],
    ),
    Row(
        "numerai_corr, top_bottom=200",
        lambda eras: metrics.numerai_corr(eras.p, eras.y, top_bottom=200),
        lambda era: scoring.numerai_corr(era.p, era.y, top_bottom=200)["prediction"],
    ),
    Row(
        "feature_neutral_corr",
        lambda eras: metrics.feature_neutral_corr(eras.p, eras.F, eras.y),
        lambda era: scoring.feature_neutral_corr(era.p, era.F, era.y)["prediction"],
    ),
    Row(
        "max_feature_correlation",
        lambda eras: metrics.max_feature_correlation(eras.p, eras.F),
        lambda era: scoring.max_feature_correlation(era.p["prediction"], era.F)[1],
    ),
)


def main() -> None:
    """Measure, print the table, and fail where the two sides disagree."""
    options = _options()
    torch.set_num_threads(options.threads or torch.get_num_threads())
    repeats = f"Medians of {options.repeats} repeats, of {options.repeats_of_theirs} for numerai_tools."
    print(f"{machine.described(_PACKAGES)}\n\n{torch.get_num_threads()} threads of torch. {repeats}\n")
    eras = Eras.make(options.eras, options.rows, options.features, options.seed)
    print(f"### {options.eras} eras of {options.rows:,} rows and {options.features} features\n")
    print("| metric | alignray ms | numerai_tools ms | ratio | difference |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    disagree = []
    for row in ROWS:
        line, difference = _measure(row, eras, options.repeats, options.repeats_of_theirs)
        print(line, flush=True)
        if not difference <= AGREEMENT:
            disagree.append(row.name)
    if disagree:
        raise SystemExit(f"differs by more than {AGREEMENT:g}: {', '.join(disagree)}")


def _measure(row: Row, eras: Eras, repeats: int, repeats_of_theirs: int) -> tuple[str, float]:
    """The table's row, and the largest difference of the two sides."""
    found = row.ours(eras)  # the first pass warms up
    ours = [_seconds(lambda: row.ours(eras)) for _ in range(repeats)]
    frames = eras.frames()
    expected = np.array([row.theirs(era) for era in frames])
    theirs = [_seconds(lambda: [row.theirs(era) for era in frames]) for _ in range(repeats_of_theirs)]
    difference = float(np.abs(found.numpy() - expected).max())
    ratio = statistics.median(theirs) / statistics.median(ours)
    return f"| {row.name} | {_ms(ours)} | {_ms(theirs)} | **{ratio:.0f}×** | {difference:.0e} |", difference


def _seconds(work: Callable[[], object]) -> float:
    started = time.monotonic()
    work()
    return time.monotonic() - started


def _ms(seconds: Sequence[float]) -> str:
    low, middle, high = (1e3 * f(seconds) for f in (min, statistics.median, max))
    return f"{middle:,.0f} ({low:,.0f} … {high:,.0f})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.metrics", description=__doc__)
    for name, default, text in (
        ("eras", 100, "eras"),
        ("rows", 5000, "rows an era, 400 at least"),
        ("features", 42, "features"),
        ("repeats", 7, "timed repeats"),
        ("repeats-of-theirs", 3, "timed repeats of numerai_tools, which takes longer"),
        ("seed", 0, "seeds the eras"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--threads", type=int, help="torch's threads (its own choice)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
