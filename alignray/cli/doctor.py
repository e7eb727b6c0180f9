"""``alignray doctor``: does everything that a sweep needs work here, and do the records of a sweep agree?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from alignray.errors import WorkError

if TYPE_CHECKING:
    from alignray.launch import Line


_COLUMNS = ("run", "study", "Tune", "MLflow", "epochs", "checkpoint", "looks")


@click.command()
@click.argument("name", required=False)
@click.option("--storage", default="runs", show_default=True, help="The folder of the sweeps.")
@click.option("--tracking-uri", help="The MLflow store of the sweep NAME.  [default: the one that it writes to]")
def doctor(name: str | None, storage: str, tracking_uri: str | None) -> None:
    """Check versions, devices, Ray, MLflow, and a solve; or whether the records of the sweep NAME agree."""
    if name is None:
        _check_installation()
    else:
        _check_sweep(name, storage, tracking_uri)


def _check_sweep(name: str, storage: str, tracking_uri: str | None) -> None:
    from alignray.launch import audit

    found = audit(name, storage=storage, tracking_uri=tracking_uri)
    rows = [_COLUMNS, *(_cells(line) for line in found.lines)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_COLUMNS))]
    for row, findings in zip(rows, [(), *(line.findings for line in found.lines)], strict=True):
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(f"{cells}  {'; '.join(findings)}".rstrip())
    if found.running:
        click.echo("running: these records move while they are read; what lags behind now may not in a moment")
    for text in found.notes:
        click.echo(f"note: {text}")
    for text in found.findings:
        click.echo(f"disagreement: {text}")
    where = "" if storage == "runs" else f" --storage {storage}"
    going_on = f"alignray resume {name}{where}"
    if found.agrees:
        click.echo(f"the records agree{'' if found.running or not found.notes else f'; go on with: {going_on}'}")
        return
    count = len(found.findings) + sum(bool(line.findings) for line in found.lines)
    advice = (
        "look again when it has ended" if found.running else f"what lags behind its studies is mended by: {going_on}"
    )
    raise WorkError(f"sweep {name!r}: {count} disagreements between its records; {advice}")


def _cells(line: Line) -> tuple[str, ...]:
    epochs = (
        "–"
        if line.epochs is None and line.mlflow_epochs is None
        else f"{_cell(line.epochs)}/{_cell(line.mlflow_epochs)}"
    )
    kept = "–" if line.checkpoint is None else f"epoch {line.checkpoint}"
    return (line.key, *map(_cell, (line.study, line.tune, line.mlflow)), epochs, kept, _cell(line.looks))


def _cell(value: object) -> str:
    return "–" if value is None else str(value)


def _check_installation() -> None:
    checks: dict[str, Callable[[], str]] = {
        "versions": _versions,
        "devices": _devices,
        "solver": _solve,
        "MLflow": _mlflow,
        "Ray": _ray,
    }
    failed = 0
    for name, check in checks.items():
        try:
            click.echo(f"ok      {name:<9} {check()}")
        except Exception as error:  # whatever is wrong is the finding
            failed += 1
            first = str(error).splitlines()[0] if str(error) else ""
            click.echo(f"failed  {name:<9} {type(error).__name__}: {first}")
    if failed:
        raise WorkError(f"{failed} of {len(checks)} checks failed")


def _versions() -> str:
    from alignray.sweep.manifest import package_versions

    return ", ".join(f"{name} {version}" for name, version in package_versions().items())


def _devices() -> str:
    from alignray.sweep.manifest import devices

    found = devices()
    return f"{found['cpus']} CPUs, {len(found['gpus'])} GPUs {', '.join(found['gpus'])}".strip()


def _solve() -> str:
    """Both backends on one problem: the decision and its derivative must agree."""
    import torch

    from alignray.costs import FactorPenalty, Quadratic, SoftL1
    from alignray.solver import SolverLayer

    generator = torch.Generator().manual_seed(0)
    p = torch.randn(30, generator=generator, dtype=torch.float64)
    F = torch.randn(30, 5, generator=generator, dtype=torch.float64)
    cost = Quadratic(1.0) + SoftL1(0.15) + FactorPenalty(10.0)
    found = []
    for backend in ("native", "cvxpylayers"):
        prediction = p.clone().requires_grad_()
        q = SolverLayer(cost, backend)(prediction, F).q
        (gradient,) = torch.autograd.grad(q.square().sum(), prediction)
        found.append((q.detach(), gradient))
    (q, gradient), (other_q, other_gradient) = found
    gap = max(float((q - other_q).abs().max()), float((gradient - other_gradient).abs().max()))
    if not gap < 1e-6:
        raise WorkError(f"native and cvxpylayers differ by {gap:.2g}")
    return f"native and cvxpylayers agree to {gap:.1g}"


def _mlflow() -> str:
    from mlflow import MlflowClient

    with tempfile.TemporaryDirectory() as folder:
        client = MlflowClient(f"sqlite:///{Path(folder) / 'mlflow.db'}")
        run = client.create_run(client.create_experiment("doctor"))
        client.log_metric(run.info.run_id, "one", 1.0)
        if client.get_run(run.info.run_id).data.metrics["one"] != 1.0:
            raise WorkError("a metric that was written cannot be read back")
    return "a store was created, written and read"


def _ray() -> str:
    import ray

    from alignray.sweep import ray_cluster

    with ray_cluster(None):
        answer = ray.get(ray.remote(lambda: 42).remote(), timeout=60)
        if answer != 42:
            raise WorkError(f"a task returned {answer}")
        return f"a cluster of {ray.cluster_resources().get('CPU', 0):g} CPUs was started and ran a task"
