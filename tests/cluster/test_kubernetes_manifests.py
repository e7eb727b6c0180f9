"""The manifests of cluster/kubernetes: what Kubernetes and KubeRay accept, and whether they are safe."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

import alignray
from alignray.errors import SweepError
from alignray.launch.clusters import Submission
from alignray.launch.clusters.kubernetes import KubernetesCluster

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "cluster" / "kubernetes"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
KUSTOMIZATION = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())
DOCUMENTS = [
    document
    for path in sorted(FOLDER.glob("*.yaml"))
    if path.name != "kustomization.yaml"
    for document in yaml.safe_load_all(path.read_text())
]
OF_RAY = {"RayCluster": "ray.io_rayclusters.yaml", "RayJob": "ray.io_rayjobs.yaml"}


def named(document: dict[str, Any]) -> str:
    return f"{document['kind']}/{document['metadata']['name']}"


def inside(value: Any) -> Iterator[dict[str, Any]]:
    """Every mapping within a document, itself included."""
    if isinstance(value, dict):
        yield value
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from inside(part)


PODS = [(named(document), part) for document in DOCUMENTS for part in inside(document) if "containers" in part]
CONTAINERS = [
    pytest.param(pod, container, id=f"{name}/{container['name']}")
    for name, pod in PODS
    for container in [*pod["containers"], *pod.get("initContainers", [])]
]


@pytest.mark.parametrize("version", ["1.30", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d["kind"] not in OF_RAY], ids=named)
def test_kubernetes_accepts(document: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(document, version, strict=True)


@cache
def schema_of(kind: str) -> dict[str, Any]:
    """KubeRay's schema of a kind, in which a field that it does not name is an error: Kubernetes would drop it."""
    path = SCHEMAS / OF_RAY[kind]
    if not path.exists():
        pytest.skip(f"KubeRay's schema {path.name} is not on this machine")
    definition = yaml.load(path.read_text(), yaml.CSafeLoader)
    (schema,) = (
        found["schema"]["openAPIV3Schema"] for found in definition["spec"]["versions"] if found["name"] == "v1"
    )
    for part in inside(schema):
        if isinstance(part.get("properties"), dict) and "type" in part and part is not schema:
            part.setdefault("additionalProperties", False)
    schema["properties"]["metadata"] = {"type": "object"}
    return dict(schema)


def require_kuberay(document: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator(schema_of(document["kind"])).validate(document)


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if d["kind"] in OF_RAY], ids=named)
def test_kuberay_accepts(document: dict[str, Any]) -> None:
    require_kuberay(document)


def test_kuberay_would_not_accept_a_mistake() -> None:
    (cluster,) = (json.loads(json.dumps(d)) for d in DOCUMENTS if d["kind"] == "RayCluster")
    cluster["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["securityContexts"] = {}
    with pytest.raises(jsonschema.ValidationError, match="securityContexts"):
        require_kuberay(cluster)


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("first", ("run", "quickstart", "--name", "first", "--storage", "/runs", "--set", 'arms=["aligned", "mse"]')),
        ("My_Sweep.2", ("resume", "My_Sweep.2", "--storage", "/runs")),
        ("x" * 100, ("resume", "x" * 100)),
    ],
)
def test_the_job_of_a_sweep(name: str, command: tuple[str, ...]) -> None:
    job = KubernetesCluster(kind="kubernetes", folder=FOLDER).job(
        Submission(name=name, storage="/runs", command=command)
    )
    assert re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,45}[a-z0-9])?", job["metadata"]["name"])
    resume = ["--resume"] if command[0] == "run" else []
    assert shlex.split(job["spec"]["entrypoint"]) == ["alignray", *command, *resume, "--address", "auto"]
    require_kuberay(job)


def test_a_sweep_must_not_write_where_nobody_looks() -> None:
    cluster = KubernetesCluster(kind="kubernetes", folder=FOLDER)
    with pytest.raises(SweepError, match=r"--storage: expected .* /runs, got 'runs'"):
        cluster.submit(Submission(name="first", storage="runs", command=("run", "quickstart", "--name", "first")))


def test_sweeps_of_like_names_have_jobs_of_their_own() -> None:
    cluster = KubernetesCluster(kind="kubernetes", folder=FOLDER)
    names = ["first", "First", "first_", "first.", "first-" + "x" * 60, "first-" + "x" * 61]
    sweeps = [Submission(name=name, storage="/runs", command=("resume", name)) for name in names]
    assert len({cluster.job(sweep)["metadata"]["name"] for sweep in sweeps}) == len(names)


def test_the_kustomization_names_every_file_but_the_sweep() -> None:
    files = {path.name for path in FOLDER.glob("*.yaml")} - {"kustomization.yaml", "sweep.yaml"}
    assert set(KUSTOMIZATION["resources"]) == files
    assert KUSTOMIZATION["namespace"] == next(d["metadata"]["name"] for d in DOCUMENTS if d["kind"] == "Namespace")


def test_versions_are_those_of_the_project() -> None:
    (image,) = KUSTOMIZATION["images"]
    assert (image["name"], image["newTag"]) == ("alignray", alignray.__version__)
    (cluster,) = (d for d in DOCUMENTS if d["kind"] == "RayCluster")
    assert f"ray=={cluster['spec']['rayVersion']}" in (ROOT / "constraints.txt").read_text().splitlines()


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_containers_are_contained(pod: dict[str, Any], container: dict[str, Any]) -> None:
    own, shared = container["securityContext"], pod["securityContext"]
    assert own["allowPrivilegeEscalation"] is False
    assert own["readOnlyRootFilesystem"] is True
    assert own["capabilities"] == {"drop": ["ALL"]}
    assert shared["runAsNonRoot"] is True
    assert shared["runAsUser"] > 0
    assert shared["seccompProfile"] == {"type": "RuntimeDefault"}
    for resource in ("cpu", "memory"):
        assert container["resources"]["limits"][resource]
        assert container["resources"]["requests"][resource]
    assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
    assert not any("hostPath" in volume for volume in pod["volumes"])


@pytest.mark.parametrize(("pod", "container"), CONTAINERS)
def test_images_are_pinned(pod: dict[str, Any], container: dict[str, Any]) -> None:
    image = container["image"]
    assert image == "alignray" or re.search(r":\d+\.\d+|@sha256:", image), image  # ours is pinned by the kustomization


def test_the_autoscaler_is_contained() -> None:
    (options,) = (d["spec"]["autoscalerOptions"] for d in DOCUMENTS if d["kind"] == "RayCluster")
    assert options["securityContext"]["runAsNonRoot"] is True
    assert options["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert options["resources"]["limits"]


def test_only_ray_s_head_holds_a_token_of_kubernetes() -> None:
    holders = [pod for _, pod in PODS if pod.get("automountServiceAccountToken") is not False]
    assert [pod["containers"][0]["name"] for pod in holders] == ["ray-head"]


def test_ray_asks_for_its_token() -> None:
    (cluster,) = (d for d in DOCUMENTS if d["kind"] == "RayCluster")
    assert cluster["spec"]["authOptions"] == {"mode": "token"}


def test_no_secret_is_written_down() -> None:
    assert not [named(document) for document in DOCUMENTS if document["kind"] == "Secret"]
    secret = re.compile(r"PASSW|TOKEN|SECRET|KEY", re.IGNORECASE)
    variables = [part for document in DOCUMENTS for part in inside(document) if {"name", "value"} <= set(part)]
    assert not [variable["name"] for variable in variables if secret.search(variable["name"])]
    for path in FOLDER.iterdir():
        assert not re.search(r"://[^\s@/]*:[^\s@/]*@", path.read_text()), path.name
        assert not re.search(r"(?m)^\s*\w*password\w*\s*[=:]\s*\S", path.read_text()), path.name


def test_nothing_reaches_the_namespace_from_outside() -> None:
    assert {d["spec"].get("type", "ClusterIP") for d in DOCUMENTS if d["kind"] == "Service"} == {"ClusterIP"}
    assert not [d for d in DOCUMENTS if d["kind"] == "Ingress"]
    policies = {d["metadata"]["name"]: d["spec"] for d in DOCUMENTS if d["kind"] == "NetworkPolicy"}
    assert policies["nothing"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    sources = [source for policy in policies.values() for rule in policy.get("ingress", []) for source in rule["from"]]
    outside = [source for source in sources if "namespaceSelector" in source]
    assert [source["podSelector"]["matchLabels"] for source in outside] == [
        {"app.kubernetes.io/name": "kuberay-operator"}
    ]
    assert not [source for source in sources if "ipBlock" in source]
    apps = {pod_labels["app"] for pod_labels in map(labels, DOCUMENTS) if pod_labels}
    assert apps <= {policy["podSelector"].get("matchLabels", {}).get("app") for policy in policies.values()}


def labels(document: dict[str, Any]) -> dict[str, str]:
    found = [
        part["metadata"]["labels"]
        for part in inside(document)
        if "spec" in part and "labels" in part.get("metadata", {})
    ]
    return next((part for part in found if "app" in part), {})
