"""What a cluster is full of: pipelines, and training pods that ask for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from api_server import ApiServer
from sending import Request

PIPELINES = 1_000
NAMESPACES = 20
API = "/apis/preheat.dev/v1alpha1"
LABEL = "preheat.dev/pipeline"


def names() -> Iterator[tuple[str, str]]:
    """Namespace and name of each pipeline."""
    for i in range(PIPELINES):
        yield f"team-{i % NAMESPACES}", f"finetune-{i:04}"


def namespaces() -> Iterator[dict[str, Any]]:
    """The namespaces, with the ServiceAccounts that a controller would make."""
    for i in range(NAMESPACES):
        yield {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": f"team-{i}"}}
        yield {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default", "namespace": f"team-{i}"}}


def pipelines() -> Iterator[Request]:
    """Requests that create the pipelines."""
    for namespace, name in names():
        stages = [
            {"s3": {"bucket": "models", "key": f"checkpoints/{name}.ckpt", "region": "us-east-1"}},
            {"verify": {"finite": True}},
            {"convert": {"dtype": "bfloat16", "exclude": [r"^head\."]}},
            {"transferLearning": {"skipMismatched": True}},
            {"freezing": {"layers": ["encoder", "processor.0"]}},
        ]
        resource = {
            "apiVersion": "preheat.dev/v1alpha1",
            "kind": "CheckpointPipeline",
            "metadata": {"name": name},
            "spec": {"stages": stages},
        }
        yield post(f"{API}/namespaces/{namespace}/checkpointpipelines", resource)


def pod(pipeline: str | None = None, name: str | None = None) -> dict[str, Any]:
    """A training pod as a Job makes them."""
    resources = {"cpu": "8", "memory": "64Gi", "nvidia.com/gpu": "1"}
    container = {
        "name": "train",
        "image": "registry.example.org/team/train:2026-05",
        "command": ["torchrun", "--nproc-per-node=8", "train.py", "--config=config.yaml"],
        "env": [{"name": f"NCCL_SETTING_{i}", "value": str(i)} for i in range(8)],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [{"name": "data", "mountPath": "/data"}],
    }
    spec = {
        "containers": [container],
        "restartPolicy": "Never",
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    }
    metadata: dict[str, Any] = {"name": name} if name else {"generateName": "train-"}
    metadata["labels"] = {"app": "train", "job-name": "train"} | ({LABEL: pipeline} if pipeline else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}


def fill(api: ApiServer) -> None:
    """Make the namespaces and the pipelines."""
    api.apply(namespaces())
    api.must_send(pipelines())


def pods_of(namespace: str) -> str:
    """The path of a namespace's pods."""
    return f"/api/v1/namespaces/{namespace}/pods"


def post(path: str, body: Mapping[str, Any]) -> Request:
    """A request that creates an object."""
    return {"method": "POST", "path": path, "type": "application/json", "body": body}


def merge(path: str, body: Mapping[str, Any]) -> Request:
    """A request that changes an object."""
    return {"method": "PATCH", "path": path, "type": "application/merge-patch+json", "body": body}


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def review(uid: str, namespace: str, made: Mapping[str, Any]) -> dict[str, Any]:
    """What the API server asks a webhook about a pod that is about to be made."""
    request = {
        "uid": uid,
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "resource": {"group": "", "version": "v1", "resource": "pods"},
        "requestKind": {"group": "", "version": "v1", "kind": "Pod"},
        "requestResource": {"group": "", "version": "v1", "resource": "pods"},
        "namespace": namespace,
        "operation": "CREATE",
        "userInfo": {
            "username": "system:serviceaccount:kube-system:job-controller",
            "groups": ["system:authenticated"],
        },
        "object": made,
        "oldObject": None,
        "dryRun": False,
        "options": {"kind": "CreateOptions", "apiVersion": "meta.k8s.io/v1"},
    }
    return {"kind": "AdmissionReview", "apiVersion": "admission.k8s.io/v1", "request": request}
