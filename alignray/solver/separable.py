"""The separable part of a cost: ``argmax_x v·x − Σᵢ φᵢ(xᵢ)`` within the bounds, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.costs.cost import Cost
from alignray.costs.term import SeparableTerm, Strength, over_rows

_MAX_STEPS = 100


@dataclass(frozen=True, slots=True, eq=False)
class Separable:
    """φ, the sum of a cost's separable terms: strongly convex, smooth away from 0 and the previous decision.

    Attributes:
        terms: The separable terms; their strengths broadcast to the batch ``[...]``.
        bound: ``|x| ≤ bound``, broadcast to rows ``[..., n]``; None for no bound.
        previous: The previous decision ``[..., n]``, or None for 0.
        mask: Rows that exist ``[..., n]``, or None for all; the others are 0 and do not move.
        stiffness: γ, the strong convexity of φ; broadcasts to rows.
        kinks: The position of each kink of φ and its height, half the jump of φ' there.
        linear: Whether φ' is a line but for the kinks.
    """

    terms: tuple[SeparableTerm, ...]
    bound: Strength | None
    previous: Tensor | None
    mask: Tensor | None
    stiffness: Strength
    kinks: tuple[tuple[float | Tensor, Strength], ...]
    linear: bool

    @classmethod
    def of(cls, cost: Cost, previous: Tensor | None = None, mask: Tensor | None = None) -> Separable:
        """The separable part of a cost."""
        bound, terms = cost.bound, cost.separable
        previous = previous if cost.uses_previous else None
        bending = (term for term in terms if term.modulus)
        return cls(
            terms=terms,
            bound=None if bound is None else over_rows(bound),
            previous=previous,
            mask=mask,
            stiffness=sum((over_rows(term.strength) * term.modulus for term in bending), start=0.0),
            kinks=_kinks(terms, previous),
            linear=all(term.linear_slope for term in terms),
        )

    def argmax(self, v: Tensor) -> Tensor:
        """``argmax_x v·x − φ(x)`` elementwise, for v ``[..., n]``, to rounding.

        The kinks cut the line into segments. On the one where the row lies φ' is smooth, and rises at least as fast as
        γx; a row that rests on a kink comes out as its exact position.
        """
        if self.linear and self.previous is None:
            for _, height in self.kinks:  # one, at 0: the soft threshold
                v = v - (torch.clamp(v, -height, height) if isinstance(height, Tensor) else v.clamp(-height, height))
            x = v / self.stiffness
        else:
            offset, below, above = self._segment(v)
            target = v if offset is None else v - offset
            x = self._linear_root(target) if self.linear else self._root(target)
            if below is not None:
                x = torch.maximum(x, below)
            if above is not None:
                x = torch.minimum(x, above)
        bound = self.bound
        if bound is not None:
            x = torch.minimum(torch.maximum(x, -bound), bound) if isinstance(bound, Tensor) else x.clamp(-bound, bound)
        return x if self.mask is None else torch.where(self.mask, x, 0.0)

    def compliance(self, x: Tensor) -> Tensor:
        """∂x/∂v = 1/φ''(x) elementwise; 0 for the rows that rest on a kink or a bound, which do not move."""
        bend = self.stiffness if self.linear else self._curvature(x)
        compliance = torch.ones_like(x) / bend if isinstance(bend, Tensor) else torch.full_like(x, 1 / bend)
        for position, height in self.kinks:
            moves = x != position
            compliance = compliance * (moves | (height == 0) if isinstance(height, Tensor) else moves)
        if self.bound is not None:
            compliance = compliance * (x.abs() < self.bound)
        return compliance if self.mask is None else compliance * self.mask

    def anchor(self, x: Tensor) -> Tensor | None:
        """Where the rows at rest are held, differentiable in bound and previous decision; None where neither moves.

        It is ``x`` itself, without derivative, on the rows that move and on those at rest at 0.
        """
        held = x
        if self.bound is not None and isinstance(self.bound, Tensor) and self.bound.requires_grad:
            held = torch.where(x.abs() >= self.bound, torch.sign(x) * self.bound, held)
        if self.previous is not None and self.previous.requires_grad:
            kinked = x.new_tensor(0.0) + _height(self.terms, about_previous=True) > 0
            held = torch.where((x == self.previous) & kinked, self.previous, held)
        return held if held.requires_grad else None

    def slope(self, x: Tensor) -> Tensor:
        """φ'(x) elementwise; at a kink, its middle. Differentiable in the strengths and the previous decision."""
        total = self._slope(x)
        for position, height in self.kinks:
            total = total + height * torch.sign(x - position).detach()
        return total

    def subdifferential(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The ends of ∂φ(x) plus the normal cone of the bounds, ``[..., n]`` each."""
        low = high = self._slope(x)
        for position, height in self.kinks:
            beyond = x - position
            low = low + height * _sign(beyond > 0, x)
            high = high - height * _sign(beyond < 0, x)
        if self.bound is not None:
            low = torch.where(x <= -self.bound, -torch.inf, low)
            high = torch.where(x >= self.bound, torch.inf, high)
        return low, high

    def _segment(self, v: Tensor) -> tuple[Strength | None, Tensor | None, Tensor | None]:
        """What the kinks add to φ' on the row's segment, and the segment's ends; a row at rest lies below its kink."""
        if not self.kinks:
            return None, None, None
        if len(self.kinks) == 1:
            (position, height), endless = self.kinks[0], v.new_tensor(torch.inf)
            passed = v - self._slope_at(position, v) > height
            return (
                height * _sign(passed, v),
                torch.where(passed, position, -endless),
                torch.where(passed, endless, position),
            )
        (_, at_zero), (previous, at_previous) = self.kinks
        zeros = torch.zeros_like(v)
        ends, order = torch.stack([zeros, zeros + previous]).sort(0)
        heights = torch.stack([zeros + at_zero, zeros + at_previous])
        first, second = heights.gather(0, order)
        passed = v - self._slope(ends[0]) > first - second
        both = v - self._slope(ends[1]) > first + second
        offset = torch.where(both, first + second, torch.where(passed, first - second, -first - second))
        below = torch.where(both, ends[1], torch.where(passed, ends[0], -torch.inf))
        above = torch.where(both, torch.inf, torch.where(passed, ends[1], ends[0]))
        return offset, below, above

    def _root(self, target: Tensor) -> Tensor:
        """The root of ``φ' = target``, kinks aside, by Newton's method within a bracket that bisection shrinks."""
        base = self._slope(torch.zeros_like(target))
        reach = (target - base) / self.stiffness  # φ' rises at least as fast as γx: the root is no farther
        low, high = reach.clamp(max=0), reach.clamp(min=0)
        chord = self._slope(reach) - base
        t = torch.where(chord == 0, reach, reach * ((target - base) / torch.where(chord == 0, 1.0, chord)))
        eps, last = torch.finfo(target.dtype).eps, torch.full_like(target, torch.inf)
        for _ in range(_MAX_STEPS):
            excess = self._slope(t) - target
            step = excess / self._curvature(t)
            found = (excess.abs() <= 4 * eps * (target.abs() + base.abs())) | (step.abs() <= eps * t.abs())
            if bool(found.all()):
                break
            high = torch.where(excess > 0, t, high)
            low = torch.where(excess > 0, low, t)
            # Where φ' bends both ways Newton's steps may go in circles within the bracket: they have to gain.
            newton, gains = t - step, excess.abs() <= 0.5 * last
            following = torch.where(gains & (newton >= low) & (newton <= high), newton, (low + high) / 2)
            t, last = torch.where(found, t, following), excess.abs()
        return t

    def _linear_root(self, target: Tensor) -> Tensor:
        shift = 0.0 if self.previous is None else self._slope(torch.zeros_like(target))
        return (target - shift) / self.stiffness

    def _slope_at(self, position: float | Tensor, v: Tensor) -> Tensor | float:
        if not isinstance(position, Tensor):
            if self.linear and self.previous is None:
                return 0.0
            position = torch.zeros_like(v)
        return self._slope(position)

    def _slope(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for term in self.terms:
            if not (term.linear_slope and not term.modulus):
                total = total + over_rows(term.strength) * term.slope(self._moved(term, x))
        return total

    def _curvature(self, x: Tensor) -> Tensor:
        total = torch.zeros_like(x)
        for term in self.terms:
            if not (term.linear_slope and not term.modulus):
                total = total + over_rows(term.strength) * term.curvature(self._moved(term, x))
        return total

    def _moved(self, term: SeparableTerm, x: Tensor) -> Tensor:
        return x - self.previous if term.reads_previous and self.previous is not None else x


def _kinks(terms: tuple[SeparableTerm, ...], previous: Tensor | None) -> tuple[tuple[float | Tensor, Strength], ...]:
    at_zero, at_previous = _height(terms, about_previous=False), _height(terms, about_previous=True)
    if previous is None:
        at_zero, at_previous = at_zero + at_previous, 0.0
    kinks: list[tuple[float | Tensor, Strength]] = []
    if isinstance(at_zero, Tensor) or at_zero:
        kinks.append((0.0, at_zero))
    if previous is not None and (isinstance(at_previous, Tensor) or at_previous):
        kinks.append((previous, at_previous))
    return tuple(kinks)


def _height(terms: tuple[SeparableTerm, ...], *, about_previous: bool) -> Strength:
    kinked = (term for term in terms if term.kink and term.reads_previous == about_previous)
    return sum((over_rows(term.strength) * term.kink for term in kinked), start=0.0)


def _sign(condition: Tensor, like: Tensor) -> Tensor:
    """1 where it holds, -1 where not, in the precision of another tensor (of two numbers, `where` makes float32)."""
    return 2 * condition.to(like.dtype) - 1
