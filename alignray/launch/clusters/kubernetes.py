"""Kubernetes: a cluster that KubeRay keeps, with MLflow and PostgreSQL beside it, driven through kubectl."""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import yaml

from alignray.errors import SweepError, WorkError
from alignray.launch.clusters.programs import call, output, require
from alignray.launch.clusters.protocol import Submission

_SECRET = "alignray"
_SECRET_KEYS = ("postgres-password", "mlflow-password", "mlflow-session-key")
_RUN = "rayclusters,rayjobs,deployments,services"
"""What runs, or leads to it; claims and secrets stay."""
_ENDED = ("Complete", "Failed")
_POLL_S = 2.0


@dataclass(frozen=True, kw_only=True, slots=True)
class KubernetesCluster:
    """A namespace as a folder's manifests describe it; see `Cluster` for what each method does.

    Attributes:
        kind: What the user calls it.
        folder: The folder of ``kustomization.yaml``, and of ``sweep.yaml``, a RayJob that each sweep fills in.
    """

    kind: str
    folder: Path

    def up(self) -> None:
        """See `Cluster.up`; passwords are made where there are none."""
        require(["kubectl", "apply", "-k", str(self.folder)], "the cluster does not start")
        if not self._get("secret", _SECRET, "{.metadata.name}"):
            self._create(_secret())
            click.echo(f"Passwords were made, and are kept in the secret {_SECRET} alone.")
        for condition, what in (
            ("condition=Available", "deployment/postgres"),
            ("condition=Available", "deployment/mlflow"),
            ("jsonpath={.status.state}=ready", f"raycluster/{self._ray}"),
        ):
            require(self._kubectl("wait", f"--for={condition}", "--timeout=15m", what), f"{what} does not start")

    def status(self) -> None:
        """See `Cluster.status`."""
        require(self._kubectl("get", "rayclusters,rayjobs,pods"), "Kubernetes does not answer")

    def submit(self, sweep: Submission) -> int:
        """See `Cluster.submit`."""
        if not sweep.storage.startswith("/"):
            raise SweepError(
                f"--storage: expected a folder that all machines mount, such as /runs, got {sweep.storage!r}"
            )
        job = _job_name(sweep.name)
        state = self._get("rayjob", job, "{.status.jobDeploymentStatus}")
        if state in _ENDED:  # a job runs once; its sweep goes on in another
            require(self._kubectl("delete", "rayjob", job), f"the job {job}, which has ended, cannot be replaced")
        if state in _ENDED or not self._get("rayjob", job, "{.metadata.name}"):
            self._create(self.job(sweep))
            click.echo(f"RayJob {job} is the sweep {sweep.name}, and goes on without this command; its log follows.")
        else:
            click.echo(f"RayJob {job} is the sweep {sweep.name} already; its log follows.")
        try:
            return self._follow(job)
        except KeyboardInterrupt:
            raise WorkError(
                f"RayJob {job} goes on; the same command follows it again, and kubectl delete rayjob {job} ends it"
            ) from None

    def down(self) -> None:
        """See `Cluster.down`; the volumes and the secrets stay too."""
        require(self._kubectl("delete", "rayjobs", "--all"), "sweeps do not end")  # while Ray is there to stop them
        require(self._kubectl("delete", _RUN, "--all"), "the cluster does not end")
        click.echo(
            f"The volumes stay: kubectl delete namespace {self._namespace} deletes them, and all that is in them."
        )

    def job(self, sweep: Submission) -> dict[str, Any]:
        """The RayJob of a sweep."""
        job = self._read("sweep.yaml")
        resume = ["--resume"] if sweep.command[0] == "run" else []
        job["metadata"]["name"] = _job_name(sweep.name)
        job["spec"]["entrypoint"] = shlex.join(["alignray", *sweep.command, *resume, "--address", "auto"])
        return job

    @property
    def _namespace(self) -> str:
        return str(self._read("kustomization.yaml")["namespace"])

    @property
    def _ray(self) -> str:
        return str(self._read("sweep.yaml")["spec"]["clusterSelector"]["ray.io/cluster"])

    def _read(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = yaml.safe_load((self.folder / name).read_text())
        return found

    def _kubectl(self, *arguments: str) -> list[str]:
        return ["kubectl", "--namespace", self._namespace, *arguments]

    def _get(self, kind: str, name: str, path: str) -> str:
        """A field of an object; empty where the field or the object is not there."""
        return output(self._kubectl("get", kind, name, "--ignore-not-found", f"--output=jsonpath={path}"))

    def _create(self, manifest: dict[str, Any]) -> None:
        output(self._kubectl("create", "--filename=-"), stdin=json.dumps(manifest))

    def _follow(self, job: str) -> int:
        """Pass a sweep's log on until it has ended; its exit status."""
        shown = False
        while True:
            ended = self._get("rayjob", job, "{.status.jobDeploymentStatus}") in _ENDED
            submission = self._get("rayjob", job, "{.status.jobId}")
            if not shown and self._get("rayjob", job, "{.status.jobStatus}") not in ("", "PENDING"):
                head = f"ray.io/cluster={self._ray},ray.io/node-type=head"
                pod = output(self._kubectl("get", "pods", f"--selector={head}", "--output=name")).strip()
                logs = ["ray", "job", "logs", "--address=http://127.0.0.1:8265", "--follow", submission]
                shown = call(self._kubectl("exec", pod, "--container=ray-head", "--", *logs)) == 0
            if ended:
                return 0 if self._get("rayjob", job, "{.status.jobStatus}") == "SUCCEEDED" else 1
            time.sleep(_POLL_S)


def _secret() -> dict[str, Any]:
    values = {key: secrets.token_urlsafe(32) for key in _SECRET_KEYS}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": _SECRET}, "stringData": values}


def _job_name(sweep: str) -> str:
    """A sweep's name as Kubernetes takes it: short and in small letters, and still no other sweep's."""
    plain = re.sub(r"[^a-z0-9]+", "-", sweep.lower()).strip("-")[:30].rstrip("-")
    return plain if plain == sweep else f"{plain}-{hashlib.sha256(sweep.encode()).hexdigest()[:8]}"
