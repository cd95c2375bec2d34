"""What the chart installs for admission, with processes of this machine in the place of its Deployments."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import yaml
from api_server import ApiServer
from workload import names, pod, pods_of

from cluster.binaries import HELM, binary
from cluster.commands import wait_until

CHART = Path(__file__).parents[1] / "charts" / "preheat"
NAMESPACE = "preheat-system"
SERVICE = "preheat-webhook"


@contextmanager
def installed(api: ApiServer, port: int, *values: str) -> Iterator[None]:
    """Admission as the chart sets it up with these values, until the block ends; a webhook listens at `port`."""
    manifests = [_at(port, each) for each in _rendered(*values) if "admissionregistration" in each["apiVersion"]]
    mutating = [each for each in manifests if each["kind"].startswith("Mutating")]
    api.apply(each for each in manifests if each not in mutating)
    wait_until("a pod without its loader is refused", lambda: '"Failure"' in created(api), 60)
    api.apply(mutating)
    try:
        yield
    finally:
        api.delete(manifests)


def until_injected(api: ApiServer) -> None:
    """Wait until a labelled pod gets its loader, as far as the API server is concerned."""
    wait_until("a labelled pod gets its loader", lambda: '"initContainers"' in created(api), 60)


def created(api: ApiServer) -> str:
    """What the API server says to a labelled pod."""
    namespace, name = next(names())
    try:
        return json.dumps(api.post(f"{pods_of(namespace)}?dryRun=All", pod(name)))
    except HTTPError as refusal:
        return refusal.read().decode()


def prepare(api: ApiServer) -> None:
    """The namespace, the resource's definition, and a Service that leads to this machine."""
    definition = next(each for each in _rendered() if each["kind"] == "CustomResourceDefinition")
    service = {"type": "ExternalName", "externalName": "127.0.0.1"}
    api.apply([{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, definition])
    metadata = {"name": SERVICE, "namespace": NAMESPACE}
    api.apply([{"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": service}])


def _at(port: int, manifest: dict[str, Any]) -> dict[str, Any]:
    for webhook in manifest.get("webhooks", ()):
        webhook["clientConfig"]["service"]["port"] = port
    return manifest


def _rendered(*values: str) -> list[dict[str, Any]]:
    command = [binary(HELM, "helm"), "template", "preheat", CHART, "--namespace", NAMESPACE]
    command += [f"--set={value}" for value in values]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True)
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]
