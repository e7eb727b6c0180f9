"""Checkpoints: tensors and a record in one safetensors file, atomic, verified by digest; the last few are kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from alignray.errors import DataError
from alignray.types import Plain

_RECORD = "alignray"
_DIGEST = "sha256"
_SUFFIX = ".safetensors"


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
        _write(path, data)

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


@dataclass(frozen=True, slots=True)
class CheckpointHistory:
    """The last checkpoints of one run, in a folder of their own: ``00000005.safetensors`` after epoch 5, and so on.

    Attributes:
        folder: The folder; made by the first `save`.
        keep: How many of them stay.
    """

    folder: Path
    keep: int

    def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Add the checkpoint of an epoch, and only then remove those that are too many.

        So are those of later epochs: of a course that was given up when one of them was found damaged.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{epoch:08d}{_SUFFIX}"
        checkpoint.save(path)
        newest_first = self._newest_first()
        at = newest_first.index(path)
        for other in (*newest_first[:at], *newest_first[at + self.keep :]):
            other.unlink(missing_ok=True)

    def latest(self) -> tuple[Checkpoint | None, tuple[str, ...]]:
        """The newest checkpoint that is whole, or None; and what is wrong with those that are newer, newest first.

        None is removed: what cannot be read now may be read another time, where the storage alone has failed.
        """
        damaged: list[str] = []
        for path in self._newest_first():
            try:
                return Checkpoint.load(path), tuple(damaged)
            except DataError as error:
                damaged.append(str(error))
        return None, tuple(damaged)

    def hand_to(self, other: CheckpointHistory, epoch: int) -> None:
        """Make the checkpoint of an epoch the only one of another run, which is left with none where it is missing.

        It is not read: if it is damaged, whoever goes on from it finds it so.
        """
        name = f"{epoch:08d}{_SUFFIX}"
        try:
            data = (self.folder / name).read_bytes()
        except FileNotFoundError:
            other.remove()
            return
        other.folder.mkdir(parents=True, exist_ok=True)
        _write(other.folder / name, data)
        for path in other._newest_first():
            if path.name != name:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Delete them all, with the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob(f"*{_SUFFIX}"), reverse=True)


def _write(path: Path, data: bytes) -> None:
    partial = path.with_name(f"{path.name}.partial")
    with partial.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def _digest(tensors: dict[str, Tensor], record: str) -> str:
    digest = hashlib.sha256(record.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data if tensor.numel() else b"")
    return digest.hexdigest()
