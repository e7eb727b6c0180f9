"""What a person sees who opens the MLflow UI at a sweep: its runs by arm, charts, and the report."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from small_sweep import ARMS, Demo, environment

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

pytestmark = [pytest.mark.ray, pytest.mark.skipif(BROWSER is None, reason="no Chromium")]
WAIT_MS = 90_000
OF_MLFLOW = (
    "404 (Not Found)",  # it asks a server without users for the current one
    "ResizeObserver loop completed",  # a browser's remark that a layout took more than one pass
)
"""Errors of MLflow 3.17's own pages, whatever they show."""


@contextlib.contextmanager
def served(demo: Demo) -> Iterator[str]:
    """The address that `alignray ui` opens."""
    process = subprocess.Popen(
        [sys.executable, "-m", "alignray", "ui", "first", "--no-open"],
        cwd=demo.home,
        env={**environment(), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process.stdout.readline().removeprefix("MLflow UI: ").strip()
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


@contextlib.contextmanager
def browsing() -> Iterator[tuple]:
    """A page, and the errors that it meets."""
    with playwright.sync_playwright() as driver:
        flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        page = driver.chromium.launch(executable_path=BROWSER, args=flags).new_page(
            viewport={"width": 1500, "height": 900}
        )
        page.set_default_timeout(WAIT_MS)
        errors: list[str] = []

        def note(text: str) -> None:
            if not any(known in text for known in OF_MLFLOW):
                errors.append(text)

        page.on("pageerror", lambda error: note(str(error)))
        page.on("console", lambda told: note(told.text) if told.type == "error" else None)
        yield page, errors


def test_runs_are_grouped_by_arm_and_charts_draw(demo: Demo, tmp_path) -> None:
    with served(demo) as address, browsing() as (page, errors):
        page.goto(address)
        for arm in ARMS:
            page.get_by_text(f"Group: {arm}", exact=True).first.wait_for()
            page.get_by_text(f"{arm}-final", exact=True).first.wait_for()
        page.get_by_text("17 matching runs").wait_for()
        page.screenshot(path=tmp_path / "runs.png")
        page.goto(page.url.replace("?", "?compareRunsMode=CHART&"))
        page.locator(".js-plotly-plot .points path.point").first.wait_for()
        assert errors == []


def test_the_report_opens_among_the_artifacts_and_draws(demo: Demo) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(demo.tracking_uri)
    experiment = client.get_experiment_by_name("alignray")
    wanted = "tags.`alignray.kind` = 'sweep' and tags.`alignray.sweep` = 'first'"
    (parent,) = client.search_runs([experiment.experiment_id], wanted)
    assert re.search(r"- aligned .* mse .* on the holdout", parent.data.tags["mlflow.note.content"])
    with served(demo) as address, browsing() as (page, errors):
        root = address.split("#")[0]
        page.goto(f"{root}#/experiments/{experiment.experiment_id}/runs/{parent.info.run_id}/artifacts/report.html")
        report = page.frame_locator("iframe")
        report.get_by_text("The arms on the sealed holdout").wait_for()
        report.locator(".plot").first.scroll_into_view_if_needed()  # it is drawn when it comes near
        report.locator(".js-plotly-plot path.js-line").first.wait_for()
        assert errors == []
