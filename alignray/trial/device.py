"""Where a trial is trained."""

from __future__ import annotations

import torch

from alignray.errors import InvalidArgumentError


def require_device(device: torch.device | str) -> torch.device:
    """The device of that name.

    Raises:
        InvalidArgumentError: It is neither the CPU nor a GPU that this machine has.
    """
    try:
        found = torch.device(device)
    except RuntimeError:  # whose text lists every kind that torch has ever known
        found = None
    if found is None or found.type not in ("cpu", "cuda"):
        raise InvalidArgumentError(f"device: expected cpu, cuda or cuda:N, got {str(device)!r}")
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if found.type == "cuda" and (found.index or 0) >= gpus:
        raise InvalidArgumentError(
            f"device: got {str(device)!r}, and this process sees {gpus} GPUs (torch {torch.__version__}); "
            "train on cpu, or see `alignray doctor`"
        )
    return found
