"""A large batch with int8 factors: eras a second, and the memory traffic against what the device can copy."""

from __future__ import annotations

import math
import statistics
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.solver.contestants import cost
from benchmarks.solver.problem import OFFSET, SCALE, Problem, Reference, Size, relative_error

_COPIED_BYTES = {"cuda": 4 << 30, "cpu": 256 << 20}
_GATHERS = {"index_select", "index", "gather"}
_UNWRITTEN = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}


@dataclass(frozen=True, slots=True)
class Batch:
    """What a batch took.

    Attributes:
        device: The device's name.
        size: The batch.
        seconds: Of forward and backward of the aligned objective; the median.
        traffic: Bytes that the operations read and wrote, by the sizes of their operands.
        codes_read: Bytes of the factors' codes among them.
        codes: Bytes of the codes.
        bandwidth: Bytes a second of a copy, read and written.
        peak: Bytes of device memory beyond what the data hold; None where not measured.
        gradient_error: Of the first era, against the reference.
        failed: Eras that did not converge.
    """

    device: str
    size: Size
    seconds: float
    traffic: int
    codes_read: int
    codes: int
    bandwidth: float
    peak: int | None
    gradient_error: float
    failed: int

    @property
    def eras_per_second(self) -> float:
        """How many eras are solved and differentiated a second."""
        return (self.size.eras or 1) / self.seconds


class _Traffic(TorchDispatchMode):
    """Adds up the sizes of what every operation reads and writes; kernels past torch's dispatcher are not seen."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = self.codes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if func.is_view or name in _UNWRITTEN:
            return result
        written = _tensors(result)
        read = [*written, *_tensors(args)[1:]] if name in _GATHERS else _tensors((args, kwargs))
        self.total += sum(map(_bytes, read)) + sum(map(_bytes, written))
        self.codes += sum(_bytes(tensor) for tensor in read if tensor.dtype == torch.int8)
        return result


def measure_batch(size: Size, device: torch.device, repeats: int) -> Batch:
    """Time a batch of eras with factors of their own, independent bins."""
    import alignray as ar
    from alignray.costs import Factors

    assert size.eras is not None
    generator = torch.Generator(device).manual_seed(0)
    shape = (size.eras, size.n)
    codes = torch.empty(*shape, size.k, dtype=torch.int8, device=device)
    for era in codes:  # one at a time: ranks are int64
        ranks = torch.rand(size.n, size.k, device=device, generator=generator).argsort(0)
        era.copy_(5 * ranks // size.n)
    p, noise = torch.randn(2, *shape, dtype=torch.float64, device=device, generator=generator)
    y = 0.2 * p + math.sqrt(0.96) * noise
    first = _first_era(codes, p, y, size)
    objective = ar.objective("aligned", ar.SolverLayer(cost(first), on_failure="nan"))
    F = Factors(codes, SCALE, OFFSET)

    def differentiate() -> tuple[Tensor, Any]:
        leaf = p.clone().requires_grad_()
        loss, solution = objective.evaluate(leaf, y, F)
        loss.sum().backward()
        assert leaf.grad is not None
        return leaf.grad, solution

    gradient, solution = differentiate()
    seconds = [_seconds(differentiate, device) for _ in range(repeats)]
    peak = _peak(differentiate, device)
    with _Traffic() as traffic:
        differentiate()
    return Batch(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU",
        size=size,
        seconds=statistics.median(seconds),
        traffic=traffic.total,
        codes_read=traffic.codes,
        codes=codes.numel(),
        bandwidth=_copy_bandwidth(device, repeats),
        peak=peak,
        gradient_error=relative_error(gradient[0].cpu().numpy(), Reference.of(first, first.p).gradient),
        failed=int((~solution.converged).sum()),
    )


def _first_era(codes: Tensor, p: Tensor, y: Tensor, size: Size) -> Problem:
    """The first era, with the L1 strength that gives it the wanted number of active rows."""
    first_codes, first_p, first_y = (tensor[0].cpu().numpy() for tensor in (codes, p, y))
    return Problem.of(first_codes, first_p, first_y, first_p, size.active)


def _copy_bandwidth(device: torch.device, repeats: int) -> float:
    """Bytes a second, read and written, of a copy within the device's memory."""
    source = torch.ones(_COPIED_BYTES[device.type], dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    return (
        2 * source.numel() / statistics.median(_seconds(lambda: target.copy_(source), device) for _ in range(repeats))
    )


def _seconds(call: Any, device: torch.device) -> float:
    _synchronize(device)
    started = time.perf_counter()
    call()
    _synchronize(device)
    return time.perf_counter() - started


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(call: Any, device: torch.device) -> int | None:
    if device.type != "cuda":
        return None
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    call()
    return torch.cuda.max_memory_allocated(device) - before


def _tensors(values: Any) -> list[Tensor]:
    return [value for value in torch.utils._pytree.tree_leaves(values) if isinstance(value, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """What there is to read of a tensor: an expanded one is no larger than its storage."""
    return int(min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()))
