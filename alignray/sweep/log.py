"""What a trial writes about itself, in a file that a person reads: started, each epoch, warnings, how it ended."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from alignray.errors import AlignrayError, SweepError

FOLDER = "logs"


class TrialLog:
    """The log of one trial or final model. Each line is on its way to the disk before the work goes on.

    Args:
        folder: The sweep's folder, on storage that every node sees.
        key: The trial's name within the sweep.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.path = folder / FOLDER / f"{key}.log"

    def write(self, text: str) -> None:
        """Add a line, or several; a log that cannot be written stops no trial."""
        now = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}"
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("a") as file:
                file.write("".join(f"{now}  {line}\n" for line in text.splitlines()))
        except OSError as error:
            warnings.warn(f"{self.path}: {error.strerror}", RuntimeWarning, stacklevel=2)

    def epoch(self, number: int, metric: str, metrics: Mapping[str, float]) -> None:
        """Add the line of an epoch.

        Args:
            number: The epoch, from 1.
            metric: What the search looks at.
            metrics: What `Trial.step` returned.
        """
        told = [
            f"epoch {number}",
            f"train/loss {metrics['train/loss']:.5g}",
            f"{metric} {metrics[metric]:.5g}",
            f"{metrics['time/epoch_s']:.2f} s",
        ]
        told += [
            f"{name} {metrics[name]:.0f}"
            for name in ("train/diverged", "solver/unconverged", "val/unscored")
            if metrics[name]
        ]
        self.write(", ".join(told))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Add the warnings and the error that the work within gives; both go on to whom they were for."""
        shown = warnings.showwarning
        warnings.showwarning = self._warned(shown)
        try:
            yield
        except AlignrayError as error:
            self.write(f"failed: {error}")
            raise
        except BaseException:
            self.write(f"failed:\n{traceback.format_exc()}")
            raise
        finally:
            warnings.showwarning = shown

    def _warned(self, shown: Callable[..., None]) -> Callable[..., None]:
        def show(message: Warning | str, category: type[Warning], *where: object, **more: object) -> None:
            self.write(f"warning: {category.__name__}: {message}")
            shown(message, category, *where, **more)

        return show


def read_log(folder: Path, key: str) -> str:
    """The log of a trial of a sweep.

    Raises:
        SweepError: There is none; the message names those that there are.
    """
    known = sorted(found.stem for found in (folder / FOLDER).glob("*.log"))
    if key not in known:
        some = ", ".join(known[:12]) + (" …" if len(known) > 12 else "")
        raise SweepError(
            f"sweep {folder.name!r}: no log of a trial {key!r}; "
            + (f"the logs there are of {some}" if known else "no trial of it has begun")
        )
    return TrialLog(folder, key).path.read_text(errors="replace")
