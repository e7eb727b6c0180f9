"""The problems, and their reference solutions: numpy alone, nothing of alignray or of a rival."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

Features: TypeAlias = Literal["independent", "correlated"]
FEATURES: tuple[Features, ...] = get_args(Features)

SCALE, OFFSET = 0.5, -1.0
"""Codes 0…4 stand for the bins −1, −½, 0, ½, 1."""

_ACTIVE_ROWS = 400
_TARGET_CORRELATION = 0.2
_MOVE = 0.02
_REFERENCE_RESIDUAL = 1e-13
_NEWTON_STEPS = 100
_BISECTIONS = 40


@dataclass(frozen=True, slots=True)
class Size:
    """What is solved at once.

    Attributes:
        n: Rows an era.
        k: Factors.
        eras: Eras in the batch; None for one era without a batch axis.
        shared: Whether the eras of the batch have the same factors.
    """

    n: int
    k: int
    eras: int | None = None
    shared: bool = True

    @classmethod
    def parse(cls, text: str) -> Size:
        """A size from ``1000x50`` or, with eras, ``1000x50x32``.

        Raises:
            ValueError: It is neither.
        """
        n, k, *eras = (int(part) for part in text.split("x"))
        if len(eras) > 1:
            raise ValueError(f"size: expected NxK or NxKxERAS, got {text!r}")
        return cls(n, k, eras[0] if eras else None)

    @property
    def active(self) -> int:
        """The rows an era that the solution should have off the kink."""
        return min(_ACTIVE_ROWS, self.n // 3)

    def __str__(self) -> str:
        era = f"{self.n:,} × {self.k:,}"
        if self.eras is None:
            return era
        return f"{era}, {self.eras} eras, {'one F' if self.shared else 'an F each'}"


@dataclass(frozen=True, slots=True, eq=False)
class Problem:
    """One or several eras with the cost ``½‖x‖² + s‖x‖₁ + ½‖Fᵀx‖²``.

    Attributes:
        codes: int8 ``[n, k]``, or ``[eras, n, k]``.
        p: Predictions ``[n]``, or ``[eras, n]``.
        y: Targets, likewise.
        moved: Predictions 2 % away from p.
        s: The strength of the L1.
    """

    codes: np.ndarray
    p: np.ndarray
    y: np.ndarray
    moved: np.ndarray
    s: float

    @classmethod
    def generate(cls, size: Size, features: Features, seed: int = 0) -> Problem:
        """A random problem with about as many active rows as the size wants; the same one for the same arguments."""
        rng = np.random.default_rng([seed, size.n, size.k, size.eras or 0, size.shared, FEATURES.index(features)])
        batch = () if size.eras is None else (size.eras,)
        drawn = [_codes(size.n, size.k, features, rng) for _ in range(1 if size.shared else math.prod(batch))]
        codes = drawn[0] if size.shared else np.stack(drawn)
        p = rng.standard_normal((*batch, size.n))
        y = _TARGET_CORRELATION * p + math.sqrt(1 - _TARGET_CORRELATION**2) * rng.standard_normal(p.shape)
        moved = p + _MOVE * p.std() * rng.standard_normal(p.shape)
        return cls.of(codes, p, y, moved, size.active)

    @classmethod
    def of(cls, codes: np.ndarray, p: np.ndarray, y: np.ndarray, moved: np.ndarray, active: int) -> Problem:
        """A problem with the L1 strength that gives so many active rows an era."""
        return cls(codes, p, y, moved, _strength(factors(codes), p, active))

    @property
    def factors(self) -> np.ndarray:
        """F in float64."""
        return factors(self.codes)

    def save(self, path: Path) -> None:
        """Write it to a file."""
        np.savez(path, codes=self.codes, p=self.p, y=self.y, moved=self.moved, s=self.s)

    @classmethod
    def load(cls, path: Path) -> Problem:
        """Read it from a file."""
        with np.load(path) as arrays:
            return cls(arrays["codes"], arrays["p"], arrays["y"], arrays["moved"], float(arrays["s"]))


@dataclass(frozen=True, slots=True, eq=False)
class Reference:
    """The solution of a problem and its aligned gradient.

    Attributes:
        q: Decisions, shaped as the predictions.
        gradient: ``J (p − y)``.
        residual: The KKT residual of the worst era.
    """

    q: np.ndarray
    gradient: np.ndarray
    residual: float

    @classmethod
    def of(cls, problem: Problem, p: np.ndarray) -> Reference:
        """The reference for predictions p, which may be the problem's or others of the same shape.

        A semismooth Newton method on the dual finds which rows are active. On those the decision and the gradient are
        ``(I + F_A F_Aᵀ)⁻¹`` times a vector, by a dense inverse refined with extended precision.

        Raises:
            ArithmeticError: The KKT residual is above 1e-13.
        """
        F = problem.factors
        eras = [
            _solve_era(F_era, p_era, y_era, problem.s)
            for F_era, p_era, y_era in _eras(F, p, np.broadcast_to(problem.y, p.shape))
        ]
        q, gradient = (np.stack(part).reshape(p.shape) for part in zip(*eras, strict=True))
        residual = kkt_residual(F.astype(np.longdouble), q.astype(np.longdouble), p, problem.s)
        if not residual <= _REFERENCE_RESIDUAL:
            raise ArithmeticError(f"reference: expected a KKT residual of at most 1e-13, got {residual:.1e}")
        return cls(q, gradient, residual)


def factors(codes: np.ndarray) -> np.ndarray:
    """F in float64, of codes."""
    return SCALE * codes + OFFSET


def kkt_residual(F: np.ndarray, q: np.ndarray, p: np.ndarray, s: float) -> float:
    """``max |q − soft(p − F Fᵀq, s)|`` of the worst era, in units of ``max(1, ‖p‖∞)``.

    On a row off the kink that is how far p is from ∂C(q). On a row near it no threshold decides whether it rests, so
    methods that return exact zeros and methods that return small numbers are measured alike.
    """
    worst = 0.0
    for F_era, q_era, p_era in _eras(F, q, p):
        gap = np.abs(q_era - _soft(p_era - F_era @ (q_era @ F_era), s)).max()
        worst = max(worst, float(gap / max(1.0, np.abs(p_era).max()))) if np.isfinite(gap) else math.inf
    return worst


def relative_error(found: np.ndarray, reference: np.ndarray) -> float:
    """``‖found − reference‖∞ / ‖reference‖∞`` of the worst era; infinite where something found is not a number."""
    error = np.abs(found - reference).max(-1) / np.abs(reference).max(-1)
    return float(np.nan_to_num(error, nan=math.inf).max())


def _codes(n: int, k: int, features: Features, rng: np.random.Generator) -> np.ndarray:
    """Five bins of n/5 rows for every column, by rank. Correlated: columns on about k/10 common factors, and noise."""
    columns = rng.standard_normal((n, k))
    if features == "correlated":
        latent = max(1, k // 10)
        common = rng.standard_normal((n, latent)) @ rng.standard_normal((latent, k)) / math.sqrt(latent)
        columns = common + 0.5 * columns
    ranks = columns.argsort(0).argsort(0)
    return (5 * ranks // n).astype(np.int8)


def _strength(F: np.ndarray, p: np.ndarray, active: int) -> float:
    """The L1 strength with so many active rows an era in the mean, by bisection."""
    low, high = 0.0, float(np.abs(p).max())
    eras = list(_eras(F, p))
    duals: list[Any] = [None] * len(eras)
    for _ in range(_BISECTIONS):
        s = (low + high) / 2
        counts = []
        for era, (F_era, p_era) in enumerate(eras):
            duals[era], rows = _newton(F_era, p_era, s, duals[era])
            counts.append(len(rows))
        surplus = np.mean(counts) - active
        if abs(surplus) < 1:
            break
        low, high = (s, high) if surplus > 0 else (low, s)
    return s


def _solve_era(F: np.ndarray, p: np.ndarray, y: np.ndarray, s: float) -> tuple[np.ndarray, np.ndarray]:
    """The decision and the aligned gradient of one era."""
    dual, active = _newton(F, p, s, None)
    A = F[active]
    inverse = np.linalg.inv(np.eye(len(active)) + A @ A.T)
    q, gradient = np.zeros_like(p), np.zeros_like(p)
    q[active] = _refined(inverse, A, p[active] - s * np.sign(p - F @ dual)[active])
    gradient[active] = _refined(inverse, A, (p - y)[active])
    return q, gradient


def _newton(F: np.ndarray, p: np.ndarray, s: float, start: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """The dual ``μ = Fᵀx`` and the active rows, by semismooth Newton with halved steps.

    Raises:
        ArithmeticError: It did not come to rest.
    """
    mu = np.zeros(F.shape[1]) if start is None else start
    for _ in range(_NEWTON_STEPS):
        v = p - F @ mu
        x = _soft(v, s)
        slope = mu - x @ F
        active = np.flatnonzero(x)
        if np.abs(slope).max(initial=0.0) <= 1e-11 * max(1.0, np.abs(mu).max(initial=0.0)):
            return mu, active
        step = -_solve_hessian(F[active], slope)
        push, value, length = F @ step, 0.5 * (x @ x + mu @ mu), 1.0
        while length > 1e-9:
            trial = mu + length * step
            x_trial = _soft(v - length * push, s)
            descent = 0.5 * (x_trial @ x_trial + trial @ trial) - value
            if descent <= 1e-4 * length * (slope @ step) + 1e-14 * abs(value):
                break
            length /= 2
        mu = trial
    raise ArithmeticError(f"reference: expected to converge in {_NEWTON_STEPS} Newton steps")


def _solve_hessian(A: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(I + AᵀA)⁻¹ r``, by the smaller of its two forms."""
    rows, columns = A.shape
    if rows >= columns:
        solved: np.ndarray = np.linalg.solve(np.eye(columns) + A.T @ A, right)
    else:
        solved = right - np.linalg.solve(np.eye(rows) + A @ A.T, A @ right) @ A
    return solved


def _refined(inverse: np.ndarray, A: np.ndarray, right: np.ndarray) -> np.ndarray:
    """``(I + A Aᵀ)⁻¹ r`` from that inverse in float64, with residuals in extended precision."""
    exact = A.astype(np.longdouble)
    x = np.zeros(len(right), np.longdouble)
    for _ in range(4):
        x = x + inverse @ (right - x - exact @ (x @ exact)).astype(np.float64)
    return x.astype(np.float64)


def _soft(v: np.ndarray, s: float) -> np.ndarray:
    shrunk: np.ndarray = np.sign(v) * np.maximum(np.abs(v) - s, 0)
    return shrunk


def _eras(F: np.ndarray, *vectors: np.ndarray) -> Any:
    """The factors with the vectors, era by era."""
    rows = [vector.reshape(-1, vector.shape[-1]) for vector in vectors]
    each = F if F.ndim == 3 else [F] * len(rows[0])
    return zip(each, *rows, strict=True)
