"""A trial that runs out of memory: it ends in one clear error, and what it held is free for the next."""

from __future__ import annotations

import functools
import gc
import re
import resource
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

import torch

from alignray.errors import AlignrayError, OutOfMemoryError
from alignray.trial.scoring import score

if TYPE_CHECKING:
    from alignray.trial.trial import Trial

P = ParamSpec("P")
T = TypeVar("T")

# What torch's allocators, numpy's, the C++ library and CUDA's linear algebra say.
_SAID = re.compile(r"out of memory|can't allocate memory|unable to allocate|bad_alloc|_ALLOC_FAILED", re.IGNORECASE)
_ASKED = re.compile(r"(?:tried|unable) to allocate ([\d.]+) (bytes|[KMGT]iB)", re.IGNORECASE)
_UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

_DONE = {"__init__": "built", "restore": "restored"}


def ends_out_of_memory(method: Callable[Concatenate[Trial, P], T]) -> Callable[Concatenate[Trial, P], T]:
    """Make a method of a trial raise `OutOfMemoryError` where it runs out of memory, with what it had made freed."""

    @functools.wraps(method)
    def guarded(trial: Trial, /, *args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return method(trial, *args, **kwargs)
        except (MemoryError, RuntimeError) as error:
            shortage = _shortage(error, trial, method.__name__)
            if shortage is None:
                raise
        # The first error is gone here, and with it the frames that hold the tensors: they would hang on to it, were it
        # the context of the one that is raised.
        free_memory()
        raise shortage

    return guarded


def free_memory() -> None:
    """Give what nothing refers to any longer back to the device: other processes may share it."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _shortage(error: Exception, trial: Trial, method: str) -> OutOfMemoryError | None:
    """What an error in a method says in words of ours, if it is of memory."""
    text = str(error)
    if isinstance(error, AlignrayError) or not (isinstance(error, MemoryError) or _SAID.search(text)):
        return None
    asked = _ASKED.search(text)
    size = "" if asked is None else f"{_gb(float(asked[1]) * _UNITS[asked[2]])} more were asked for, "
    scoring = any(frame.f_code is score.__code__ for frame, _ in traceback.walk_tb(error.__traceback__))
    done = "scored" if scoring else _DONE.get(method, "trained")
    return OutOfMemoryError(
        f"out of memory while the trial was {done}: {size}{_room(trial.device)}; {_advice(trial, done)}"
    )


def _advice(trial: Trial, done: str) -> str:
    config = trial.config
    to_lower = [f"members={config.members}", f"model.width={config.model.width}"]
    if done == "trained":  # scoring takes eras at its own pace
        same = "with training.accumulate raised as much, a step still sees the same eras"
        to_lower.insert(0, f"training.eras_per_batch={config.training.eras_per_batch} ({same})")
    on_gpu = trial.device.type == "cuda"
    share = "raise resources.gpus_per_trial, its share of a GPU" if on_gpu else "lower resources.max_concurrent"
    return f"lower {', '.join(to_lower[:-1])} or {to_lower[-1]}; or, if other trials ran beside it, {share}"


def _room(device: torch.device) -> str:
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        held = torch.cuda.memory_reserved(device)
        return f"{_gb(free)} of the GPU's {_gb(total)} were free and {_gb(held)} this process's own"
    available = _free_on_host()
    return "more than is free" if available is None else f"{_gb(available)} were free"


def _free_on_host() -> float | None:
    """Bytes that this process may still be given, as far as Linux says; None elsewhere."""
    try:
        available = 1024 * proc_field(Path("/proc/meminfo"), "MemAvailable")
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return available
        return min(available, max(0, limit - 1024 * proc_field(Path("/proc/self/status"), "VmSize")))
    except (OSError, StopIteration):
        return None


def proc_field(file: Path, name: str) -> int:
    """A field of a file of Linux's ``/proc``, in its KiB."""
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(f"{name}:"))


def _gb(size: float) -> str:
    return f"{size / 1e9:.3g} GB"
