"""How large the report of a big sweep is, and how long it takes to write and to open.

python -m benchmarks.report [--quick] [--keep FOLDER]

The sweep is made up, with as many trials, epochs and eras as a long one has; its journal, results and page are real.
The page is opened in headless Chromium, where there is one, until its first figures are drawn.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from alignray.configuration import replace_at
from alignray.data import datasets
from alignray.launch import find_sweep, open_result, write_page
from alignray.sweep import FinalResult, Manifest, SweepConfig, sweep_studies
from alignray.sweep.results import FOLDER, save_final
from alignray.trial import METRICS, PARTS, Calibration, Scores
from benchmarks.machine import described, watched

_BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    """Make the sweep, write its page, open it, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="40 trials × 10 epochs instead of 1,000 × 50")
    parser.add_argument("--keep", type=Path, help="make the sweep in this folder, and leave it there")
    asked = parser.parse_args()
    trials, epochs = (40, 10) if asked.quick else (1_000, 50)
    print(described(("alignray", "optuna", "plotly")))
    with watched(), tempfile.TemporaryDirectory() as scratch:
        storage = asked.keep or Path(scratch)
        started = time.monotonic()
        make_sweep(storage / "large", trials, epochs)
        print(f"made {trials} trials × {epochs} epochs in {time.monotonic() - started:.0f} s", flush=True)
        started = time.monotonic()
        result = open_result("large", storage=storage)
        opened = time.monotonic()
        page = write_page(result, storage / "report.html")
        written = time.monotonic()
        print(
            f"written in {written - started:.1f} s, of them {opened - started:.1f} s for the tables; "
            f"{page.stat().st_size / 1e6:.2f} MB"
        )
        print(open_in_browser(page))


def make_sweep(folder: Path, trials: int, epochs: int) -> None:
    """A finished sweep of the quickstart's arms with random scores, in a folder."""
    config = replace_at(find_sweep("quickstart"), {"search.trials": trials // 4, "search.sampler": "random"})
    manifest = Manifest.of(folder.name, config, datasets.sp500(), "sqlite:///mlflow.db")
    folder.mkdir(parents=True)
    manifest.save(folder)
    rng = np.random.default_rng(0)
    # It is the time to read the journal that counts, not to write it.
    with patch("os.fsync"):
        for study in sweep_studies(folder, manifest, create=True).values():
            for number in range(trials // 4):
                study.ask()
                for epoch in range(1, epochs + 1):
                    study.report(number, epoch, float(rng.normal(0.02, 0.01)), dict.fromkeys(PARTS, 0.25))
                    if epoch > 3 and rng.random() < 0.03:
                        study.prune(number)
                        break
                else:
                    study.complete(number, float(rng.normal(0.03, 0.01)))
    for arm in config.arms:
        save_final(_made_up(config, arm, rng), folder / FOLDER / arm)


def _made_up(config: SweepConfig, arm: str, rng: np.random.Generator) -> FinalResult:
    eras, members = config.holdout.eras, config.holdout.members
    scores = Scores(
        eras=tuple(f"{era:04d}" for era in range(eras)),
        series={metric: rng.normal(0.02, 0.1, size=(members, eras)) for metric in METRICS},
        reasons={metric: np.zeros((members, eras), np.uint8) for metric in METRICS},
        residual_max=1e-9,
        unconverged=0,
    )
    trial = replace(config.trial, objective=arm)
    calibration = Calibration(np.full(10, eras), np.linspace(-1, 1, 10), np.linspace(-0.1, 0.1, 10))
    return FinalResult(arm, trial, Path(), scores, 1, scores, calibration, dict.fromkeys(PARTS, 60.0))


def open_in_browser(page: Path) -> str:
    """How long the page takes in headless Chromium from its navigation until the first figures are drawn, in words."""
    browser = next(filter(None, map(shutil.which, _BROWSERS)), None)
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return "not opened: playwright is not installed"
    if browser is None:
        return f"not opened: none of {', '.join(_BROWSERS)} is installed"
    with sync_playwright() as driver:
        flags = ["--disable-gpu", "--disable-background-networking", "--no-sandbox"]
        opened = driver.chromium.launch(executable_path=browser, args=flags).new_page()
        opened.goto(page.resolve().as_uri())
        drawn = opened.wait_for_function("document.documentElement.dataset.drawn").json_value()
    return f"first figures drawn {int(drawn) / 1000:.1f} s after it began to open"


if __name__ == "__main__":
    main()
