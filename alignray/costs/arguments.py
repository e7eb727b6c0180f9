"""What costs, solvers and objectives ask of the tensors of a batch of eras."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor

from alignray.costs.factors import Factors
from alignray.costs.term import Strength
from alignray.errors import InvalidArgumentError


def batch_shape(F: Tensor | Factors | None, mask: Tensor | None, **vectors: Tensor) -> torch.Size:
    """Check that the tensors of a batch fit one another, and find the shape of the batch.

    Args:
        F: Factors ``[..., n, k]``, or None.
        mask: Rows that count, bool ``[..., n]``, or None.
        **vectors: One number a row ``[..., n]``, each under the name that the caller knows it by. The first sets n and
            the device.

    Returns:
        The batch shape ``[...]`` that all of them broadcast to.

    Raises:
        InvalidArgumentError: One is no tensor, or its shape, type or device does not fit.
    """
    named = {**vectors, "F": F, "mask": mask}
    given: dict[str, Tensor | Factors] = {name: value for name, value in named.items() if value is not None}
    for name, value in given.items():
        if not isinstance(value, Tensor | Factors):
            raise InvalidArgumentError(f"{name}: expected a tensor, got {type(value).__name__}")
    first, leader = next(iter(vectors.items()))
    if leader.dim() < 1 or leader.shape[-1] < 1:
        raise InvalidArgumentError(f"{first}: expected shape [..., n] with at least one row, got {list(leader.shape)}")
    n, batches = leader.shape[-1], []
    for name, value in given.items():
        own = 2 if name == "F" else 1
        if value.dim() < own or value.shape[-own] != n:
            rows = f"[..., {n}, k]" if name == "F" else f"[..., {n}]"
            raise InvalidArgumentError(f"{name}: expected shape {rows} to fit {first}, got {list(value.shape)}")
        if value.device != leader.device:
            raise InvalidArgumentError(f"{name}: expected the device of {first}, {leader.device}, got {value.device}")
        batches.append(value.shape[:-own])
    if mask is not None and mask.dtype != torch.bool:
        raise InvalidArgumentError(f"mask: expected bool, got {mask.dtype}")
    try:
        return cast("torch.Size", torch.broadcast_shapes(*batches))
    except RuntimeError:
        got = ", ".join(str(list(shape)) for shape in batches)
        raise InvalidArgumentError(
            f"{', '.join(given)}: expected batch shapes that broadcast to one another, got {got}"
        ) from None


def batch_with_strengths(batch: torch.Size, strengths: Mapping[str, Strength], device: torch.device) -> torch.Size:
    """Check that the strengths of a cost fit a batch.

    Args:
        batch: The batch shape ``[...]``.
        strengths: The strengths by name.
        device: Where the batch is; numbers, and tensors without axes, may be elsewhere.

    Returns:
        The batch shape that both broadcast to.

    Raises:
        InvalidArgumentError: The shape or device of one does not fit.
    """
    for name, strength in strengths.items():
        if isinstance(strength, Tensor):
            if strength.dim() and strength.device != device:
                raise InvalidArgumentError(f"{name}: expected the device of the batch, {device}, got {strength.device}")
            try:
                batch = cast("torch.Size", torch.broadcast_shapes(batch, strength.shape))
            except RuntimeError:
                raise InvalidArgumentError(
                    f"{name}: expected a shape that broadcasts to the batch {list(batch)}, got {list(strength.shape)}"
                ) from None
    return batch


def require_finite(name: str, values: Tensor) -> None:
    """Check that every number is finite.

    Raises:
        InvalidArgumentError: One is NaN or infinite.
    """
    # A sum is not finite if one of its numbers is not, and several times cheaper than to look at each.
    if not math.isfinite(float(values.detach().sum())):
        bad = int((~values.isfinite()).sum())
        if bad:
            raise InvalidArgumentError(f"{name}: expected finite numbers, got {bad} that are NaN or infinite")


def known(values: Tensor, mask: Tensor | None) -> Tensor:
    """The values on the rows that count, 0 elsewhere (where they may be NaN)."""
    return values if mask is None else torch.where(mask, values, 0.0)
