"""How MLflow's UI shows a sweep: filtered to its runs, and grouped by arm."""

from __future__ import annotations

import json
from urllib.parse import quote

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

_SHARED = "mlflow.sharedViewState."
"""The tags of an experiment under which MLflow's UI keeps the views that its users share by a link."""


def sweep_view(client: MlflowClient, experiment_id: str, sweep: str) -> str:
    """The page of a sweep, to be appended to the address of MLflow's UI.

    How runs are grouped is nothing that an address can say; a view that is shared is, so one is left with the
    experiment. Where it cannot be written, the address says what it can: the filter.
    """
    page = f"#/experiments/{experiment_id}/runs"
    wanted = f"tags.`alignray.sweep` = '{sweep}'"
    key = f"alignray.sweep.{sweep}"
    grouped = {"mode": "tag", "groupByData": "alignray.objective"}
    view = {"searchFilter": wanted, "groupBy": {"aggregateFunction": "average", "groupByKeys": [grouped]}}
    try:
        client.set_experiment_tag(experiment_id, _SHARED + key, json.dumps(view))
    except MlflowException:
        return f"{page}?searchFilter={quote(wanted, safe='')}"
    return f"{page}?viewStateShareKey={quote(key, safe='')}"
