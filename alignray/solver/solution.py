"""What a solve returns."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Solution:
    """Decisions with their certificate, one for each era of the batch.

    Attributes:
        q: Decisions ``[..., n]``, differentiable in the prediction and the strengths; 0 on padded rows.
        residual: The largest violation of ``p ∈ ∂C(q)`` over the rows, in units of ``max(1, ‖p‖∞)``; ``[...]``.
        iterations: Newton steps taken (0 where the backend does not count them); ``[...]``.
        converged: Whether the residual met the tolerance; ``[...]``.
        dual: The factor duals ``[..., k]``, the warm start of the next solve; None without factors.
    """

    q: Tensor
    residual: Tensor
    iterations: Tensor
    converged: Tensor
    dual: Tensor | None = None
