"""What every metric asks of its arguments."""

from __future__ import annotations

import torch
from torch import Tensor

from alignray.errors import InvalidArgumentError


def era_rows(mask: Tensor | None, *, F: Tensor | None = None, **vectors: Tensor) -> tuple[Tensor, ...]:
    """Reads the rows of a batch of eras. Nothing is expanded to the common batch shape.

    Args:
        mask: The rows that take part, bool `[..., n]`; None for all of them.
        F: Factors `[..., n, k]`, if the metric has any.
        **vectors: One number a row, `[..., n]`, each under the name that the caller knows it by.

    Returns:
        The vectors in their order in float64, then F as it is if it was given, the mask last.

    Raises:
        InvalidArgumentError: One is no tensor, the rows differ in number, the batch shapes do not broadcast, or the
            mask is not bool.
    """
    for name, value in {**vectors, "F": F, "mask": mask}.items():
        if value is not None:
            require_tensor(name, value)
    name, leader = next(iter(vectors.items()))
    if leader.ndim == 0:
        raise InvalidArgumentError(f"{name}: expected shape [..., n], got []")
    n = leader.shape[-1]
    if mask is None:
        mask = torch.ones(n, dtype=torch.bool, device=leader.device)
    elif mask.dtype != torch.bool:
        raise InvalidArgumentError(f"mask: expected dtype torch.bool, got {mask.dtype}")

    batches = {name: _batch_shape(name, vector, [n]) for name, vector in vectors.items()}
    batches["mask"] = _batch_shape("mask", mask, [n])
    if F is not None:
        batches["F"] = _batch_shape("F", F, [n, "k"])
    try:
        torch.broadcast_shapes(*batches.values())
    except RuntimeError as error:
        got = ", ".join(str(list(shape)) for shape in batches.values())
        raise InvalidArgumentError(f"{', '.join(batches)}: expected batch shapes that broadcast, got {got}") from error
    rows = tuple(vector.to(torch.float64) for vector in vectors.values())
    return (*rows, mask) if F is None else (*rows, F, mask)


def require_tensor(name: str, value: object) -> None:
    """Check that a value is a tensor.

    Raises:
        InvalidArgumentError: It is none.
    """
    if not isinstance(value, Tensor):
        raise InvalidArgumentError(f"{name}: expected a tensor, got {type(value).__name__}")


def _batch_shape(name: str, tensor: Tensor, era: list[int | str]) -> torch.Size:
    """Returns the shape before an era's own dimensions, the first of which, its rows, must be as expected."""
    if tensor.ndim < len(era) or tensor.shape[-len(era)] != era[0]:
        expected = ", ".join(map(str, ["...", *era]))
        raise InvalidArgumentError(f"{name}: expected shape [{expected}], got {list(tensor.shape)}")
    return tensor.shape[: -len(era)]
