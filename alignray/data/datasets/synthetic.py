"""A panel in Numerai's layout whose signal is known."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.data.batch import Batch
from alignray.data.layout import BINS, Schema, Shard, code_moments, offsets_of
from alignray.data.panel import Panel
from alignray.errors import InvalidArgumentError

BLOCK = 5
"""Features in a block."""
BLOCK_CORRELATION = 0.5
"""The correlation of two features of one block, before they are cut into bins."""
PAIRS = 10
"""Pairs of features that make the stable signal, if there are as many."""
STABLE, UNSTABLE, NOISE = 0.05, 0.15, 0.80
"""The shares of the score's variance."""
_TARGETS = np.array([0.0, 0.25, 0.5, 0.75, 1.0], np.float32)
_TARGET_EDGES = (0.05, 0.25, 0.75, 0.95)
"""The ranks at which the target steps up, as Numerai's does: 5, 20, 50, 20 and 5 % of the rows."""
_TARGET_DEVIATION = 0.8**0.5
"""The target's standard deviation, in steps of 0.25: the root of 2 · (0.05 · 2² + 0.2 · 1²)."""

Floats: TypeAlias = npt.NDArray[np.float64]
Level = TypeVar("Level", bound=np.generic)


class Era(NamedTuple):
    """One era: its features, int8 codes ``[n, d]``, its target ``[n]``, and the score ``[n]`` that the target ranks."""

    features: npt.NDArray[np.int8]
    target: npt.NDArray[np.float32]
    score: Floats


def synthetic(
    *,
    num_eras: int,
    rows: int,
    num_features: int,
    seed: int,
    stable: float = STABLE,
    unstable: float = UNSTABLE,
    noise: float = NOISE,
) -> Panel:
    """Make a panel in Numerai's layout, with a signal that is known.

    An era has between 0.9 · ``rows`` and ``rows`` rows. Features come in blocks of five; two features of a block are
    correlated by 0.5 before each is cut into five equally filled bins. The target is the rank of a score, cut into
    {0, 0.25, 0.5, 0.75, 1} as Numerai's is. The score's variance comes

    - to 5 % from a stable, non-linear signal: ``tanh(1.5 a) + a b``, summed over ten pairs of features. It is all that
      can be learned: who knows it correlates with the score by √0.05 ≈ 0.22, see `synthetic_oracle`. About half of it,
      the tanh, is so nearly linear that neutralising against the features removes it;
    - to 15 % from linear factor returns, one a block, whose signs are drawn anew in each era: a model that bets on them
      gains nothing in the mean and is less stable, and neutralising against the features removes the bet;
    - to 80 % from label noise,

    unless other shares are asked for.

    Args:
        num_eras: The number of eras, labelled ``"0001"`` and so on.
        rows: The largest number of rows in an era, at least 2.
        num_features: The number of features, which are the factors too.
        seed: Decides everything; more eras of the same seed begin with the same eras.
        stable: The share of the stable signal in the score's variance.
        unstable: The share of the factor returns.
        noise: The share of the label noise; the three add up to 1.

    Raises:
        InvalidArgumentError: A number is too small, or the shares do not add up to 1.
    """
    eras = [
        (era.features, era.target) for era in draw_eras(num_eras, rows, num_features, seed, stable, unstable, noise)
    ]
    offsets = offsets_of([len(target) for _, target in eras])
    names = feature_names(num_features)
    shard = Shard(
        eras=tuple(era_label(era) for era in range(num_eras)),
        offsets=offsets,
        features=np.concatenate([features for features, _ in eras]),
        factors=None,
        target=np.concatenate([target for _, target in eras]),
        ids=row_ids(0, int(offsets[-1])),
    )
    return Panel(Schema(era="era", target="target", id="id", features=names, factors=names, bins=BINS), (shard,))


def synthetic_oracle(batch: Batch, *, stable: float = STABLE) -> Tensor:
    """The best prediction of a synthetic panel's standardised target, E[y | X].

    It takes what is not signal as normal, which the noise is and the factor returns nearly are:

        E[y | X] = Σ_t Φ((√stable · signal − Φ⁻¹(t)) / √(1 − stable))

    over the ranks t at which the target steps up, standardised as the target is.

    Args:
        batch: Eras of the panel, whose features are all the panel's.
        stable: The share that the panel was made with.

    Returns:
        Predictions ``[B, n]`` in float64, 0 on rows that only pad an era.

    Raises:
        InvalidArgumentError: The share does not lie within [0, 1).
    """
    if not 0 <= stable < 1:
        raise InvalidArgumentError(f"stable: expected a share within [0, 1), got {stable}")
    steps = torch.special.ndtri(torch.tensor(_TARGET_EDGES, dtype=torch.float64))
    prediction = torch.zeros(batch.target.shape, dtype=torch.float64)
    for era, rows in enumerate(batch.present.cpu()):
        X = batch.features[era].cpu()[rows].double().numpy()
        signal = torch.from_numpy(stable**0.5 * _scaled(_signal(X)))
        above = torch.special.ndtr((signal[:, None] - steps) / (1 - stable) ** 0.5)
        prediction[era, rows] = (above.sum(-1) - len(steps) / 2) / _TARGET_DEVIATION
    return prediction.to(batch.target.device)


def draw_eras(
    num_eras: int, rows: int, num_features: int, seed: int, stable: float, unstable: float, noise: float
) -> Iterator[Era]:
    """Draw the eras of `synthetic`, one after another; its arguments, which are checked at once."""
    least_of = {"num_eras": (num_eras, 1), "rows": (rows, 2), "num_features": (num_features, 1), "seed": (seed, 0)}
    for name, (value, least) in least_of.items():
        if value < least:
            raise InvalidArgumentError(f"{name} must be at least {least}, got {value}")
    shares = (stable, unstable, noise)
    if not (min(shares) >= 0 and math.isclose(sum(shares), 1, abs_tol=1e-9)):
        raise InvalidArgumentError(
            f"stable, unstable, noise: expected shares of at least 0 that add up to 1, got {shares}"
        )
    weights = (stable**0.5, unstable**0.5, noise**0.5)
    return (_era(np.random.default_rng([seed, era]), rows, num_features, weights) for era in range(num_eras))


def feature_names(num_features: int) -> tuple[str, ...]:
    """The names of the features."""
    return tuple(f"feature_{number:04d}" for number in range(num_features))


def era_label(era: int) -> str:
    """The label of the era of this index."""
    return f"{era + 1:04d}"


def row_ids(start: int, stop: int) -> npt.NDArray[np.str_]:
    """Names like Numerai's of the rows ``start`` to ``stop − 1``: n and fifteen hexadecimal digits, all different."""
    # An odd multiplier permutes the numbers below 2⁶⁰, so no two rows can share a name.
    return np.array([f"n{row * 0x9E3779B97F4A7C1 % 2**60:015x}" for row in range(start, stop)])


def target_of(score: Floats) -> npt.NDArray[np.float32]:
    """The ranks of a score ``[n]``, cut into {0, 0.25, 0.5, 0.75, 1} as Numerai's targets are."""
    levels = _TARGETS[np.searchsorted(_TARGET_EDGES, (np.arange(len(score)) + 0.5) / len(score))]
    return _by_rank(score[:, None], levels)[:, 0]


def num_pairs(num_features: int) -> int:
    """The pairs of features that make the stable signal: the first features with as many of the last."""
    return max(1, min(PAIRS, num_features // 2))


def _era(rng: np.random.Generator, rows: int, d: int, weights: tuple[float, float, float]) -> Era:
    """Draw one era, its score made of signal, returns and noise."""
    n = int(rng.integers(-(-9 * rows // 10), rows, endpoint=True))
    block = np.arange(d) // BLOCK
    common = rng.standard_normal((n, block[-1] + 1))
    own = rng.standard_normal((n, d))
    latent = BLOCK_CORRELATION**0.5 * common[:, block] + (1 - BLOCK_CORRELATION) ** 0.5 * own
    codes = _by_rank(latent, (np.arange(n) * BINS // n).astype(np.int8))
    mean, std = code_moments(BINS)
    X = (codes.astype(np.float64) - mean) / std
    returns = rng.choice([-1.0, 1.0], block[-1] + 1)[block]
    stable, unstable, noise = weights
    score = stable * _scaled(_signal(X)) + unstable * _scaled(X @ returns) + noise * rng.standard_normal(n)
    return Era(codes, target_of(score), score)


def _signal(X: Floats) -> Floats:
    """The stable signal ``[n]``: tanh(1.5 a) + a b over the pairs of one of the first columns and one of the last."""
    pairs = num_pairs(X.shape[1])
    a, b = X[:, :pairs], X[:, -pairs:]
    return np.asarray((np.tanh(1.5 * a) + a * b).sum(axis=1))


def _by_rank(values: Floats, levels: npt.NDArray[Level]) -> npt.NDArray[Level]:
    """Give the i-th smallest value of each column ``[n, d]`` the i-th of the levels ``[n]``."""
    ranked = np.empty(values.shape, levels.dtype)
    np.put_along_axis(ranked, values.argsort(axis=0), levels[:, None], axis=0)
    return ranked


def _scaled(values: Floats) -> Floats:
    """Centred, and of variance 1 unless constant."""
    centred = values - values.mean()
    return np.asarray(centred / (centred.std() or 1.0))
