"""How long the quickstart sweep takes, as a user starts it: python benchmarks/quickstart.py [RUNS]."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time


def main(runs: int) -> None:
    """Run the sweep so many times, each in a folder of its own, and print the times."""
    seconds = []
    for _ in range(runs):
        with tempfile.TemporaryDirectory() as folder:
            started = time.monotonic()
            subprocess.run(
                [sys.executable, "-m", "alignray", "run", "quickstart"],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
            )
            seconds.append(time.monotonic() - started)
        print(f"{seconds[-1]:.0f} s", flush=True)
    print(
        f"median {statistics.median(seconds):.0f} s of {runs} runs ({min(seconds):.0f} to {max(seconds):.0f} s), "
        f"{os.cpu_count()} cores, {platform.processor() or platform.machine()}, Python {platform.python_version()}"
    )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
