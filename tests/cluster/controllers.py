"""Controllers of others: Kubeflow's training-operator, JobSet and Trainer, as their own manifests install them.

Only the image is ours: the base, with the programs that were built from the same modules mounted into it.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cluster.binaries import TRAINER, TRAINING_OPERATOR, Module, folder_of, source_of
from cluster.commands import wait_until
from cluster.lifecycle import Cluster

DEFINITION = "CustomResourceDefinition"
PROGRAMS = "/programs"
FILES = "preheat-test-files"
USER = 65532


@dataclass(frozen=True)
class Controller:
    """One controller: where its manifests are, what is run, and in which namespace."""

    module: Module
    package: str  # the Go module that holds the manifests
    manifests: str  # what to kustomize in it
    program: str
    namespace: str
    kinds: tuple[str, ...]  # its resources, users first
    arguments: tuple[str, ...] = ()
    files: tuple[tuple[str, str], ...] = ()  # name and content of what it finds in /etc/config


# Workers wait until a name server knows their master, and this cluster has none.
NO_WAITING = """
- name: init-pytorch
  image: IMAGE
  command: ["true"]
  resources: {requests: {cpu: 50m, memory: 10Mi}, limits: {cpu: 100m, memory: 20Mi}}
"""
CONTROLLERS = (
    Controller(
        TRAINING_OPERATOR, "github.com/kubeflow/training-operator", "manifests/overlays/standalone",
        "training-operator.v1", "kubeflow", ("pytorchjobs",),
        ("--enable-scheme=pytorchjob",), (("initContainer.yaml", NO_WAITING),),
    ),
    Controller(TRAINER, "sigs.k8s.io/jobset", "config/default", "jobset", "jobset-system", ("jobsets",)),
    Controller(
        TRAINER, "github.com/kubeflow/trainer/v2", "manifests/overlays/manager",
        "trainer-controller-manager", "kubeflow-system", ("trainjobs", "trainingruntimes", "clustertrainingruntimes"),
    ),
)  # fmt: skip


@contextmanager
def others_controllers(cluster: Cluster) -> Iterator[None]:
    """All of them, ready to be asked; none is left behind, nor their kinds, nor what was made of those."""
    image = cluster.base_image()
    documents = [each for controller in CONTROLLERS for each in _documents(cluster, controller, image)]
    try:
        _apply(cluster, documents)
        for controller in CONTROLLERS:
            _hand_over_certificate(cluster, controller.namespace)
        for controller in CONTROLLERS:
            words = ("wait", "--for=condition=Available", "deployments", "--all", "--timeout=120s")
            cluster.kubectl("--namespace", controller.namespace, *words)
        yield
        for kind in (kind for controller in reversed(CONTROLLERS) for kind in controller.kinds):
            cluster.kubectl("delete", kind, "--all", "--all-namespaces", "--timeout=60s")  # some hold finalizers
    finally:
        # Webhooks first: nobody answers them any more.
        cluster.kubectl("delete", "--ignore-not-found", "--timeout=90s", "-f", "-", input=_listed(documents[::-1]))


def _apply(cluster: Cluster, documents: list[dict[str, Any]]) -> None:
    """Kinds first: a controller that does not find its own ends. Webhooks last: they are asked once they exist."""
    kinds = [each for each in documents if each["kind"] == DEFINITION]
    webhooks = [each for each in documents if each["kind"].endswith("WebhookConfiguration")]
    rest = [each for each in documents if each not in kinds and each not in webhooks]
    apply = ("apply", "--server-side", "-f", "-")
    cluster.kubectl(*apply, input=_listed(kinds))
    names = [f"crd/{each['metadata']['name']}" for each in kinds]
    cluster.kubectl("wait", "--for=condition=Established", *names, "--timeout=30s")
    cluster.kubectl(*apply, input=_listed(rest))
    cluster.kubectl(*apply, input=_listed(webhooks))


def _listed(documents: list[dict[str, Any]]) -> str:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": documents})


def _hand_over_certificate(cluster: Cluster, namespace: str) -> None:
    """Have the kubelet look for the certificate that the controller has written: it does so when the pod changes."""

    def written() -> bool:
        secrets = json.loads(cluster.kubectl("--namespace", namespace, "get", "secrets", "-o", "json"))["items"]
        return all("tls.crt" in secret.get("data", {}) for secret in secrets)

    wait_until(f"the controller in {namespace} has its certificate", written, seconds=90, interval=0.5)
    cluster.kubectl("--namespace", namespace, "annotate", "pods", "--all", "preheat.test/certificate=written")


def _documents(cluster: Cluster, controller: Controller, image: str) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as scratch:
        top = Path(controller.manifests).parts[0]
        shutil.copytree(source_of(controller.module, controller.package) / top, Path(scratch, top))
        kustomization = Path(scratch, controller.manifests, "kustomization.yaml")
        # Trainer would fetch JobSet from its release; here it stands beside.
        kept = [line for line in kustomization.read_text().splitlines() if "third-party/jobset" not in line]
        kustomization.unlink()
        kustomization.write_text("\n".join(kept))
        rendered = cluster.kubectl("kustomize", kustomization.parent)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # definitions of resources are long
    documents: list[dict[str, Any]] = [each for each in yaml.load_all(rendered, loader) if _needed(each, controller)]
    [deployment] = [each for each in documents if each["kind"] == "Deployment"]
    _run_ours(deployment["spec"]["template"]["spec"], controller, image)
    files = {name: content.replace("IMAGE", image) for name, content in controller.files}
    metadata = {"name": FILES, "namespace": controller.namespace}
    return [*documents, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": files}]


def _needed(document: dict[str, Any] | None, controller: Controller) -> bool:
    if document and document["kind"] == DEFINITION:
        return document["spec"]["names"]["plural"] in controller.kinds
    return bool(document)


def _run_ours(pod: dict[str, Any], controller: Controller, image: str) -> None:
    [container] = pod["containers"]
    container |= {"image": image, "imagePullPolicy": "Never", "command": [f"{PROGRAMS}/{controller.program}"]}
    container["args"] = [*container.get("args", ()), *controller.arguments]
    container["readinessProbe"] |= {"initialDelaySeconds": 0, "periodSeconds": 1}
    container.pop("resources", None)  # two cores have to do for everything
    container["volumeMounts"] += [
        {"name": "programs", "mountPath": PROGRAMS, "readOnly": True},
        {"name": "files", "mountPath": "/etc/config", "readOnly": True},
    ]
    pod["volumes"] += [
        {"name": "programs", "hostPath": {"path": str(folder_of(controller.module)), "type": "Directory"}},
        {"name": "files", "configMap": {"name": FILES}},
    ]
    pod["securityContext"] = {"runAsUser": USER, "runAsNonRoot": True}
    pod["terminationGracePeriodSeconds"] = 1
