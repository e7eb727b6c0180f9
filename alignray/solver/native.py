"""The native backend: a batch cut into pieces, each solved by Newton's method on its dual."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from alignray.solver.columns import Columns, NewtonMatrix
from alignray.solver.dual_newton import DualNewton
from alignray.solver.problem import Layout, Problem
from alignray.solver.separable import Separable


@dataclass(frozen=True, slots=True, eq=False)
class _Piece:
    members: slice
    eras: slice
    newton: DualNewton
    matrix: NewtonMatrix | None
    q: Tensor


@dataclass(frozen=True, slots=True, eq=False)
class NativeSolve:
    """A solved batch, which can be differentiated.

    Attributes:
        q: Decisions ``[..., n]``.
        dual: Duals ``[..., c]``, or None where rows do not meet.
        iterations: Newton steps ``[...]``.
    """

    q: Tensor
    dual: Tensor | None
    iterations: Tensor
    _layout: Layout
    _pieces: tuple[_Piece, ...]

    @classmethod
    def of(cls, problem: Problem, *, tol: float, max_iter: int, start: Tensor | None) -> NativeSolve:
        """Solve a batch.

        Args:
            problem: The batch.
            tol: The KKT residual to reach.
            max_iter: Newton steps at most.
            start: Duals ``[..., c]`` to start from, or None.
        """
        layout = Layout.of(problem)
        p = layout.rows(problem.p.detach())
        mask = None if problem.mask is None else layout.rows(problem.mask)
        previous = None if problem.previous is None else layout.rows(problem.previous.detach())
        factors = None if problem.factors is None else layout.factors(problem.factors)
        begin = None if start is None else layout.rows(start)
        q, iterations = torch.empty_like(p), torch.zeros(layout.shape, dtype=torch.int64, device=p.device)
        dual = p.new_zeros(*layout.shape, problem.num_duals) if problem.num_duals else None
        pieces = []
        for members, eras in layout.pieces(problem):
            at = (members, eras)
            cost = problem.cost.with_strengths(lambda strength, at=at: layout.numbers(strength.detach())[at])  # type: ignore[misc]
            rows = None if mask is None else mask[at]
            separable = Separable.of(cost, None if previous is None else previous[at], rows)
            own = None if factors is None else factors.with_codes(factors.codes[eras])
            newton = DualNewton(separable, Columns.of(cost, own, p[at], rows, separable.stiffness))
            q[at], found, iterations[at], matrix = newton.solve(
                p[at], tol=tol, max_iter=max_iter, start=None if begin is None else begin[at]
            )
            if dual is not None and found is not None:
                dual[at] = found
            pieces.append(_Piece(members, eras, newton, matrix, q[at]))
        return cls(
            q=layout.restore(q),
            dual=None if dual is None else layout.restore(dual),
            iterations=layout.restore(iterations),
            _layout=layout,
            _pieces=tuple(pieces),
        )

    def compliance(self) -> Tensor:
        """``∂x/∂v`` of every row alone, ``[..., n]``."""
        rows = self._layout.rows(self.q)
        h = torch.empty_like(rows)
        for piece in self._pieces:
            h[piece.members, piece.eras] = piece.newton.separable.compliance(piece.q)
        return self._layout.restore(h)

    def adjoint(self, g: Tensor, held: NativeSolve | None = None) -> tuple[Tensor, Tensor]:
        """See `DualNewton.adjoint`; g and the result ``[..., n]``, the residual ``[...]``.

        Args:
            g: The gradient in the decision.
            held: An earlier solve of the same batch with other predictions, whose M is to serve for this one's.
        """
        rows = self._layout.rows(g)
        result, residual = torch.empty_like(rows), rows.new_empty(rows.shape[:-1])
        for index, piece in enumerate(self._pieces):
            at = (piece.members, piece.eras)
            earlier = None if held is None else held._pieces[index].matrix
            result[at], residual[at] = piece.newton.adjoint(piece.q, rows[at], piece.matrix, earlier)
        return self._layout.restore(result), self._layout.restore(residual)
