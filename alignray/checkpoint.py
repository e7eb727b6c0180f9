"""Checkpoints: tensors and a record in one safetensors file, written atomically and verified by digest."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignray.errors import DataError
from alignray.types import Plain

_RECORD = "alignray"
_DIGEST = "sha256"


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """A state that can be gone on from.

    Attributes:
        tensors: Tensors by name.
        record: The rest, as plain data.
    """

    tensors: dict[str, Tensor]
    record: dict[str, Plain]

    def save(self, path: Path) -> None:
        """Write the checkpoint: after a crash the file is the old one or the new one, never a part."""
        from safetensors.torch import save

        tensors = {name: value.detach().cpu().contiguous() for name, value in self.tensors.items()}
        record = json.dumps(self.record)
        data = save(tensors, metadata={_RECORD: record, _DIGEST: _digest(tensors, record)})
        partial = path.with_name(f"{path.name}.partial")
        with partial.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> Checkpoint:
        """Read a checkpoint back, on the CPU.

        Raises:
            DataError: The file is missing, cut short, altered, or no checkpoint.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt", device="cpu") as file:
                metadata = file.metadata() or {}
                tensors: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise DataError(f"{path}: expected a checkpoint, got a file that cannot be read ({error})") from error
        record = metadata.get(_RECORD, "")
        if metadata.get(_DIGEST) != _digest(tensors, record):
            raise DataError(f"{path}: the checkpoint was altered: its content does not match its digest")
        return cls(tensors, json.loads(record))


def _digest(tensors: dict[str, Tensor], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
