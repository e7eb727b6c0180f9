"""How long a large panel takes on its way to a worker: python -m benchmarks.panels --help."""

from __future__ import annotations

import argparse
import inspect
import itertools
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from alignray.data import Schema, Shard, write_shards
from alignray.data.shards import read_manifest
from benchmarks import machine
from benchmarks.markdown import table

_PACKAGES = ("alignray", "numpy", "pyarrow", "torch")


@dataclass(frozen=True, slots=True)
class Numbers:
    """A panel in Numerai's layout that is drawn era by era and never whole in memory.

    Attributes:
        eras: The number of eras.
        rows: The rows of an era.
        features: The int8 features, in five bins.
        seed: Decides the numbers.
    """

    eras: int
    rows: int
    features: int
    seed: int

    @property
    def schema(self) -> Schema:
        """What its columns are called."""
        names = tuple(f"feature_{number:04d}" for number in range(self.features))
        return Schema(era="era", target="target", id="id", features=names, factors=names, bins=5)

    @property
    def shards(self) -> Iterator[Shard]:
        """One shard for each era."""
        for era in range(self.eras):
            rng = np.random.default_rng([self.seed, era])
            yield Shard(
                eras=(f"{era:04d}",),
                offsets=np.array([0, self.rows]),
                features=rng.integers(0, 5, (self.rows, self.features), np.int8),
                factors=None,
                target=rng.integers(0, 5, self.rows).astype(np.float32) / 4,
                ids=np.array([f"n{era:04x}{row:011x}" for row in range(self.rows)]),
            )


def main() -> None:
    """Measure the parts that are asked for, and print a table for each."""
    options = _options()
    print(f"{machine.described(_PACKAGES)}\n")
    numbers = Numbers(-(-options.rows // options.rows_an_era), options.rows_an_era, options.features, options.seed)
    print(f"{numbers.eras} eras of {numbers.rows:,} rows, {numbers.features} int8 features.\n", flush=True)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        started = time.monotonic()
        before = machine.resident("VmHWM")
        write_shards(numbers, f"{folder}/shards", eras_per_shard=options.eras_per_shard)
        seconds = time.monotonic() - started
        grown = machine.resident("VmHWM") - before
        manifest = read_manifest(f"{folder}/shards")
        print(
            f"Drawn and written era by era: {manifest.num_bytes / 1e9:.2f} GB in {len(manifest.entries)} shards, "
            f"{seconds:.1f} s ({manifest.num_bytes / 1e6 / seconds:,.0f} MB/s); "
            f"the peak of the memory grew by {grown / 1e6:,.0f} MB.\n",
            flush=True,
        )
        for part in options.parts:
            print(f"{_PARTS[part](Path(folder), numbers, options)}\n", flush=True)


def opening(folder: Path, numbers: Numbers, options: argparse.Namespace) -> str:
    """Opening the shards and reading one era, each in a fresh process, beside one row group of a parquet file."""
    shards = folder / "shards"
    rows = []

    def measure(what: str, statements: Sequence[str], *, cold: bool, repeats: int, stamped: bool = True) -> None:
        timed = []
        for repeat in range(repeats):
            era = repeat * numbers.eras // repeats
            if not stamped:
                (shards / ".verified.json").unlink(missing_ok=True)
            if cold:
                _evict(folder)
            timed.append(_in_a_fresh_process([line.format(folder=folder, era=era) for line in statements])[0])
        steps = list(zip(*timed, strict=True))
        cells = [_ms(step) for step in (*steps[1:], [sum(run[1:]) for run in timed])]
        rows.append([what, "cold" if cold else "warm", *cells, _ms(steps[0])])

    ours = (
        "import pyarrow, alignray.data as data",
        "panel = data.open_shards('{folder}/shards')",
        "panel.batch([{era}])",
    )
    theirs = (
        "import pyarrow.parquet as pq",
        "file = pq.ParquetFile('{folder}/panel.parquet')",
        "file.read_row_group({era})",
    )
    for cold in (True, False):
        measure("first opening: all is verified", ours, cold=cold, repeats=min(3, options.repeats), stamped=False)
    for cold in (True, False):
        measure("any later opening", ours, cold=cold, repeats=options.repeats)
    if not options.no_parquet:
        _write_parquet(numbers, folder / "panel.parquet", eras_per_group=1)
        for cold in (True, False):
            measure("parquet, a row group for each era", theirs, cold=cold, repeats=min(3, options.repeats))
    return "### Opening, then one era; ms: median (min … max)\n\n" + table(
        ["", "page cache", "open", "one era", "**both**", "beside: imports"], rows
    )


def sharding(folder: Path, numbers: Numbers, options: argparse.Namespace) -> str:
    """Sharding a parquet file, each time in a fresh process, beside pyarrow decoding it and doing nothing else."""
    path = folder / "large_groups.parquet"
    _write_parquet(numbers, path, eras_per_group=max(1, _ROWS_PER_GROUP // numbers.rows))
    eras = f"eras_per_shard={options.eras_per_shard}"
    decoded = numbers.eras * numbers.rows * (numbers.features + 4)
    works = {
        "alignray: parquet to shards": (
            "from alignray.data import open_stream, write_shards",
            f"write_shards(open_stream('{path}', {eras}), '{folder}/sharded', {eras})",
        ),
        "pyarrow: decoding alone": (
            "import pyarrow.parquet as pq",
            f"for batch in pq.ParquetFile('{path}', pre_buffer=False).iter_batches(10_000): pass",
        ),
    }
    rows = []
    for what, statements in works.items():
        seconds, peaks = [], []
        for _ in range(min(3, options.repeats)):
            shutil.rmtree(folder / "sharded", ignore_errors=True)
            (_, took), peak = _in_a_fresh_process(statements)
            seconds.append(took)
            peaks.append(peak)
        speeds = [decoded / 1e6 / took for took in seconds]
        rows.append([what, _three(seconds, ".1f"), _three(speeds, ",.0f"), f"{max(peaks) / 1e6:,.0f}"])
    size = f"{decoded / 1e9:.2f} GB of features and targets, {path.stat().st_size / 1e9:.2f} GB as parquet"
    path.unlink()
    return f"### Sharding {size}; median (min … max)\n\n" + table(["", "s", "**MB/s**", "peak memory MB"], rows)


_ROWS_PER_GROUP = 1 << 20
"""What pandas and pyarrow write into a row group unless they are told otherwise."""

_PARTS: dict[str, Callable[[Path, Numbers, argparse.Namespace], str]] = {"open": opening, "shard": sharding}
"""Each is given a folder with the shards in ``shards``, what they hold, and the options; and returns Markdown."""


def _in_a_fresh_process(statements: Sequence[str]) -> tuple[list[float], int]:
    """The seconds that each of some statements takes in a new interpreter, and the most memory that it held."""
    lines = [
        "import time",
        "from pathlib import Path",
        inspect.getsource(machine.resident),
        "times = [time.monotonic()]",
    ]
    for statement in statements:
        lines += [statement, "times.append(time.monotonic())"]
    lines.append("print(*times, resident('VmHWM'))")
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], check=True, stdout=subprocess.PIPE, text=True)
    *times, peak = (float(text) for text in done.stdout.split())
    return [after - before for before, after in itertools.pairwise(times)], int(peak)


def _evict(folder: Path) -> None:
    """Drop the files of a folder from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)  # a page that is not on the disk yet would stay
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def _write_parquet(numbers: Numbers, path: Path, eras_per_group: int) -> None:
    """The same panel as a parquet file with so many eras in a row group."""
    schema = numbers.schema
    columns = [pa.field("era", pa.string()), pa.field("target", pa.float32()), pa.field("id", pa.string())]
    fields = pa.schema([*columns, *(pa.field(name, pa.int8()) for name in schema.features)])
    with pq.ParquetWriter(path, fields) as writer:
        shards = numbers.shards
        while group := list(itertools.islice(shards, eras_per_group)):
            writer.write_table(pa.concat_tables([_as_table(shard, fields) for shard in group]))


def _as_table(shard: Shard, fields: pa.Schema) -> pa.Table:
    assert shard.ids is not None
    arrays = [pa.array(shard.eras * shard.num_rows), pa.array(shard.target), pa.array(shard.ids.tolist())]
    arrays += [pa.array(column) for column in np.ascontiguousarray(shard.features.T)]
    return pa.Table.from_arrays(arrays, schema=fields)


def _ms(seconds: Sequence[float]) -> str:
    return _three([1e3 * value for value in seconds], ",.0f")


def _three(values: Sequence[float], form: str) -> str:
    low, middle, high = (f"{f(values):{form}}" for f in (min, statistics.median, max))
    return f"{middle} ({low} … {high})"


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks.panels", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=_PARTS, default=list(_PARTS), help="what to measure (all)")
    parser.add_argument("--quick", action="store_true", help="a fifteenth of the rows, three repeats")
    for name, default, text in (
        ("rows", 3_000_000, "rows"),
        ("features", 780, "features"),
        ("rows-an-era", 5000, "rows of an era"),
        ("eras-per-shard", 32, "eras in each file"),
        ("repeats", 9, "fresh processes; three for what takes long"),
        ("seed", 0, "seeds the numbers"),
    ):
        parser.add_argument(f"--{name}", type=int, default=default, help=f"{text} ({default})")
    parser.add_argument("--folder", help="where to write, for a while; 5 GB at the default size (the temporary folder)")
    parser.add_argument(
        "--no-parquet", action="store_true", help="leave parquet out of the openings, as it takes minutes to write"
    )
    options = parser.parse_args()
    if options.quick:
        options.rows, options.repeats = options.rows // 15, 3
    return options


if __name__ == "__main__":
    main()
