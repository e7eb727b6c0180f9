"""``alignray doctor``: does everything that a sweep needs work here?"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import click

from alignray.errors import WorkError


@click.command()
def doctor() -> None:
    """Check versions, devices, Ray, MLflow, and a solve."""
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
