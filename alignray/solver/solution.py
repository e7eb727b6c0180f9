"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Decisions with their certificate, one for each era of the batch.

    Attributes:
        q: Decisions ``[..., n]``, differentiable in the prediction, the strengths and the previous decision; 0 on
            padded rows.
        residual: How far q is from optimal ``[...]``, see `alignray.solver.certificate.kkt_residual`, and
            `CvxpyBackend.solve` for the reference backend.
        iterations: Newton steps taken (0 where the backend does not count them); ``[...]``.
        converged: Whether the residual met the tolerance; ``[...]``.
        dual: The multipliers of the factors, then of the sum ``[..., c]``, the warm start of the next solve; None where
            rows do not meet, and from the reference backend.
    """

    q: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    dual: Tensor | None = None
