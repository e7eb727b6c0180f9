"""How a panel reaches a training loop: batches in a given order, made while the one before them is used."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from alignray.data.ahead import ahead
from alignray.data.batch import Batch, Stored
from alignray.data.layout import offsets_of
from alignray.data.panel import Panel

_SHARE_OF_FREE_MEMORY = 0.25
"""What a panel may take of a GPU's free memory: several trials may share the GPU, each in a process of its own."""

_NUMBERS_WORTH_A_THREAD = 1 << 16
"""The features of an era from which on a thread helps: below, most of the work is Python's, one thread at a time."""


class Loader(Iterator[Batch]):
    """The batches of some groups of eras, in their order, each equal to ``panel.batch(group, device)``.

    On the CPU a thread makes the next batch while the current one is used, unless eras are small; where the panel's
    files are only mapped, that is also when they are read. On a GPU the panel stays on the device if it is small beside
    the free memory: an era travels once a process, whatever the trials that read it. Otherwise a thread copies the next
    group through pinned memory while the current one is used.

    At most one batch is made ahead. What goes wrong in the thread is raised where the batch is asked for. The thread
    ends with the loader: when it is exhausted, closed, or collected.

    Args:
        panel: The data.
        groups: The eras of each batch, as indices into the panel.
        device: Where the batches shall be.

    Attributes:
        waited: The seconds that the caller has waited for batches so far.
    """

    def __init__(self, panel: Panel, groups: Iterable[Sequence[int]], device: torch.device | str) -> None:
        self.waited = 0.0
        self._batches = _batches(panel, groups, torch.device(device))

    def __next__(self) -> Batch:
        started = time.monotonic()
        try:
            return next(self._batches)
        finally:
            self.waited += time.monotonic() - started

    def close(self) -> None:
        """Stop, and wait for the batch that is being made."""
        self._batches.close()


class Resident:
    """A panel's arrays on a device, as they are stored. An era gets there when it is first asked for, and stays.

    Args:
        panel: The panel; it is not kept alive.
        device: The device.
    """

    def __init__(self, panel: Panel, device: torch.device) -> None:
        self._spans, self._layout, self._device = panel.spans, panel.layout, device
        self._starts = offsets_of([b - a for _, a, b in panel.spans])
        self._there = np.zeros(panel.num_eras, np.bool_)

        def room(array: npt.NDArray[np.generic]) -> Tensor:
            kind = torch.int8 if array.dtype == np.int8 else torch.float32
            return torch.empty((panel.num_rows, *array.shape[1:]), dtype=kind, device=device)

        shard = panel.shards[0]
        self._features, self._target = room(shard.features), room(shard.target)
        self._factors = None if shard.factors is None else room(shard.factors)

    def batch(self, eras: npt.NDArray[np.int64]) -> Batch:
        """The eras ``[B]`` as a batch; once they are there, nothing but their indices travels."""
        for era in eras[~self._there[eras]].tolist():
            self._bring(era)
        starts, stops = self._starts[eras], self._starts[eras + 1]
        order, first, last = torch.tensor(np.stack([eras, starts, stops - 1])).to(self._device)
        rows = first[:, None] + torch.arange(int((stops - starts).max()), device=self._device)  # [B, n]
        # Padding repeats an era's last row, which is there, and is then masked.
        gathered = torch.minimum(rows, last[:, None]).flatten()

        def gather(array: Tensor) -> Tensor:
            return array[gathered].reshape(*rows.shape, *array.shape[1:])

        stored = Stored(
            features=gather(self._features),
            factors=None if self._factors is None else gather(self._factors),
            target=gather(self._target),
            present=rows <= last[:, None],
            eras=order,
        )
        return stored.decoded(self._layout)

    def _bring(self, era: int) -> None:
        shard, a, b = self._spans[era]
        rows = slice(int(self._starts[era]), int(self._starts[era + 1]))
        # Shards may be read-only, which torch.from_numpy warns of: torch.tensor copies.
        self._features[rows].copy_(torch.tensor(shard.features[a:b]))
        self._target[rows].copy_(torch.tensor(shard.target[a:b]))
        if self._factors is not None and shard.factors is not None:
            self._factors[rows].copy_(torch.tensor(shard.factors[a:b]))
        self._there[era] = True


_RESIDENTS: WeakKeyDictionary[Panel, dict[torch.device, Resident | None]] = WeakKeyDictionary()
"""By panel and device, what stays there; None where it would take too much. It goes with the panel."""


def resident_bytes(panel: Panel, device: torch.device) -> int:
    """What a panel would take of a GPU, as free as it is now, if it stays there; 0 if it would be streamed."""
    free, _ = torch.cuda.mem_get_info(device)
    numbers = sum(shard.nbytes - (0 if shard.ids is None else shard.ids.nbytes) for shard in panel.shards)
    return numbers if numbers <= _SHARE_OF_FREE_MEMORY * free else 0


def _resident(panel: Panel, device: torch.device) -> Resident | None:
    """The panel on a GPU, or None if it shall be streamed: decided when it is first asked for, for this process."""
    of_panel = _RESIDENTS.setdefault(panel, {})
    if device not in of_panel:
        of_panel[device] = Resident(panel, device) if resident_bytes(panel, device) else None
    return of_panel[device]


def _batches(panel: Panel, groups: Iterable[Sequence[int]], device: torch.device) -> Generator[Batch, None, None]:
    if device.type != "cuda":
        large = panel.num_rows * panel.num_features >= _NUMBERS_WORTH_A_THREAD * panel.num_eras
        batches = (panel.batch(eras, device) for eras in groups)
        yield from ahead(batches) if large else batches
    elif (resident := _resident(panel, device)) is not None:
        for eras in groups:
            yield resident.batch(panel.indices(eras))
    else:
        yield from _streamed(panel, groups, device)


def _streamed(panel: Panel, groups: Iterable[Sequence[int]], device: torch.device) -> Generator[Batch, None, None]:
    """Batches of eras that travel on a stream of their own while the current batch is computed with."""
    side = torch.cuda.Stream(device)

    def sent(eras: Sequence[int]) -> tuple[Stored, torch.cuda.Event]:
        host = panel.stored(eras).each(Tensor.pin_memory)
        with torch.cuda.stream(side):
            # torch keeps the pinned memory until the copy is done, though nothing here refers to it any longer.
            there = host.each(lambda tensor: tensor.to(device, non_blocking=True))
            return there, side.record_event()

    for stored, arrival in ahead(map(sent, groups)):
        current = torch.cuda.current_stream(device)
        current.wait_event(arrival)

        def used_here(tensor: Tensor, current: torch.cuda.Stream = current) -> Tensor:
            tensor.record_stream(current)  # it was made on the side stream, which must not reuse its memory yet
            return tensor

        yield stored.each(used_here).decoded(panel.layout)
