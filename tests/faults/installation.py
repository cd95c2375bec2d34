"""Preheat as its chart installs it, but for the Deployments: the test runs their processes, and owns their failures."""

from __future__ import annotations

import base64
import json
import secrets
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import httpx2
import pytest
from rendered_yaml import documents

from cluster.binaries import KUBERNETES, NEWEST
from cluster.lifecycle import Cluster
from faults.fault_proxy import FaultProxy
from preheat_operator.authority import renewed
from preheat_operator.serving_certificate import ServingCertificate

CHART = Path(__file__).parents[2] / "charts" / "preheat"
NAME = "faults"
LOADER_IMAGE = "loader:1"
_NOT_HERE = ("Deployment", "PodDisruptionBudget", "CustomResourceDefinition")
SPEC = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}
PIPELINES = "/apis/preheat.dev/v1alpha1/namespaces/{}/checkpointpipelines"
PODS = "/api/v1/namespaces/{}/pods"


class Api:
    """The API server itself, past every proxy, as its administrator."""

    def __init__(self, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        config = json.loads(kubeconfig.read_text())
        self.cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        authority = base64.b64decode(self.cluster["certificate-authority-data"]).decode()
        self.tls = ssl.create_default_context(cadata=authority)
        self.server = httpx2.URL(self.cluster["server"])
        self._options: dict[str, Any] = {
            "base_url": self.server,
            "verify": self.tls,
            "headers": {"Authorization": f"Bearer {user['token']}"},
            "timeout": 30,
        }
        self.http = httpx2.Client(**self._options)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()

    def several(self) -> httpx2.AsyncClient:
        """A client for many requests at once."""
        return httpx2.AsyncClient(limits=httpx2.Limits(max_connections=50), **self._options)

    def get(self, path: str, **query: str) -> dict[str, Any]:
        return self._said(self.http.get(path, params=query))

    def post(self, path: str, document: Any, **query: str) -> dict[str, Any]:
        return self._said(self.http.post(path, json=document, params=query))

    def patch(self, path: str, document: Any, kind: str = "merge-patch", **query: str) -> dict[str, Any]:
        headers = {"Content-Type": f"application/{kind}+{'yaml' if kind == 'apply-patch' else 'json'}"}
        return self._said(self.http.patch(path, content=json.dumps(document), headers=headers, params=query))

    def apply(self, path: str, document: Any) -> dict[str, Any]:
        return self.patch(path, document, "apply-patch", fieldManager="test", force="true")

    def delete(self, path: str, **query: str) -> None:
        answer = self.http.delete(path, params=query)
        if answer.status_code != 404:
            self._said(answer)

    @staticmethod
    def _said(answer: httpx2.Response) -> dict[str, Any]:
        assert answer.is_success, answer.text
        said: dict[str, Any] = answer.json()
        return said


@dataclass
class Installation:
    """The chart's objects in the cluster, and ways to reach the API server as its accounts do."""

    cluster: Cluster
    api: Api
    namespace: str
    folder: Path

    @property
    def settings(self) -> dict[str, str]:
        """What the chart tells both processes."""
        return {
            "namespace": self.namespace,
            "loader_image": LOADER_IMAGE,
            "service_name": f"{NAME}-webhook",
            "secret_name": f"{NAME}-webhook-certificate",
            "webhook_configuration_name": NAME,
        }

    def token(self, role: str) -> str:
        path = f"/api/v1/namespaces/{self.namespace}/serviceaccounts/{NAME}-{role}/token"
        token: str = self.api.post(path, {"spec": {}})["status"]["token"]
        return token

    @contextmanager
    def proxied(self, role: str, token: str | None = None) -> Iterator[tuple[FaultProxy, Path]]:
        """A proxy to the API server, and a kubeconfig of the role's account that leads through it."""
        own = renewed({}, ["localhost"], datetime.now(UTC))
        server = self.api.server
        with FaultProxy(server.host, server.port or 443, upstream_tls=self.api.tls, own_tls=serving(own)) as proxy:
            kubeconfig = self.folder / f"{role}-{proxy.port}.kubeconfig"
            address = f"https://localhost:{proxy.port}"
            content = {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": "c", "cluster": {"server": address, **_authority(own)}}],
                "users": [{"name": "u", "user": {"token": token or self.token(role)}}],
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                "current-context": "c",
            }
            kubeconfig.write_text(json.dumps(content))
            yield proxy, kubeconfig

    def endpoints(self, *ports: int) -> None:
        """Have the Service lead to these ports of this machine, and to no other."""
        if KUBERNETES is not NEWEST:
            pytest.skip("this API server looks for a webhook in Endpoints, where only pods can stand")
        path = f"/apis/discovery.k8s.io/v1/namespaces/{self.namespace}/endpointslices"
        wanted = {f"{NAME}-{port}": port for port in ports}
        for name, port in wanted.items():
            self.api.apply(
                f"{path}/{name}",
                {
                    "apiVersion": "discovery.k8s.io/v1",
                    "kind": "EndpointSlice",
                    "metadata": {"name": name, "labels": {"kubernetes.io/service-name": f"{NAME}-webhook"}},
                    "addressType": "IPv4",
                    "endpoints": [{"addresses": [self.cluster.bridge_ip], "conditions": {"ready": True}}],
                    "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
                },
            )
        for found in self.api.get(path)["items"]:
            if found["metadata"]["name"] not in wanted:
                self.api.delete(f"{path}/{found['metadata']['name']}")

    def set_timeout(self, seconds: int) -> None:
        """How long the API server waits for the webhook."""
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"
        change = [{"op": "replace", "path": "/webhooks/0/timeoutSeconds", "value": seconds}]
        self.api.patch(path, change, "json-patch")


@contextmanager
def installed_chart(cluster: Cluster, folder: Path) -> Iterator[Installation]:
    """The chart's objects, there until the end."""
    namespace = f"{NAME}-{secrets.token_hex(4)}"
    options = ("--namespace", namespace, "--set", f"fullnameOverride={NAME}", "--set", "loader.image.repository=loader")
    text = cluster.helm("template", NAME, CHART, *options, "--set", "loader.image.tag=1")
    manifests = [each for each in documents(text) if each["kind"] not in _NOT_HERE]
    for each in manifests:
        if each["kind"] == "Service":
            del each["spec"]["selector"]
    stream = "\n---\n".join(json.dumps(each) for each in manifests)
    cluster.kubectl("create", "namespace", namespace)
    try:
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", input=stream)
        with Api(cluster.kubeconfig) as api:
            yield Installation(cluster, api, namespace, folder)
    finally:
        cluster.kubectl("delete", "--ignore-not-found", "--wait=false", "-f", "-", input=stream)
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


class Tenant:
    """What a user does in one namespace, and what a kubelet would write there."""

    def __init__(self, api: Api, namespace: str) -> None:
        self.api, self.namespace = api, namespace
        self.pipelines, self.pods = PIPELINES.format(namespace), PODS.format(namespace)

    def pipeline(self, name: str = "finetune", spec: Any = SPEC, **metadata: Any) -> dict[str, Any]:
        return self.api.post(self.pipelines, pipeline(name, spec, **metadata))

    def found(self, name: str = "finetune") -> dict[str, Any]:
        return self.api.get(f"{self.pipelines}/{name}")

    def status(self, name: str = "finetune") -> dict[str, Any]:
        return self.found(name).get("status", {})

    def condition(self, name: str = "finetune", kind: str = "Ready") -> dict[str, Any]:
        return next((each for each in self.status(name).get("conditions", ()) if each["type"] == kind), {})

    def counts(self, name: str = "finetune") -> dict[str, int]:
        counts: dict[str, int] = self.status(name).get("pods", {})
        return counts

    def injected_pod(self, name: str, pipeline: str = "finetune") -> None:
        """A pod as the webhook would have left it, labelled afterwards so that no webhook has a say in it."""
        origin = self.found(pipeline)["metadata"]
        made_from = json.dumps({key: origin[key] for key in ("name", "namespace", "uid", "generation")})
        loader = {"name": "preheat-loader", "image": "l", "env": [{"name": "PREHEAT_PIPELINE", "value": made_from}]}
        document = pod(name, None)
        document["spec"]["initContainers"] = [loader]
        self.api.post(self.pods, document)
        self.api.patch(f"{self.pods}/{name}", {"metadata": {"labels": {"preheat.dev/pipeline": pipeline}}})

    def report(self, name: str, code: int | None, message: Any = None) -> None:
        """The loader of a pod runs (None) or ended."""
        ended = {"exitCode": code, "finishedAt": now(), "message": json.dumps(message), "reason": "x"}
        state = {"running": {"startedAt": now()}} if code is None else {"terminated": ended}
        loader = {"name": "preheat-loader", "image": "l", "imageID": "", "ready": code == 0, "restartCount": 0}
        self.api.patch(
            f"{self.pods}/{name}/status", {"status": {"initContainerStatuses": [{**loader, "state": state}]}}
        )

    def delete(self, name: str = "finetune") -> None:
        self.api.delete(f"{self.pipelines}/{name}")

    def delete_pod(self, name: str) -> None:
        self.api.delete(f"{self.pods}/{name}", gracePeriodSeconds="0")

    def jobs(self) -> list[dict[str, Any]]:
        items: list[dict[str, Any]] = self.api.get(f"/apis/batch/v1/namespaces/{self.namespace}/jobs")["items"]
        return items

    def events(self, reason: str) -> list[dict[str, Any]]:
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/events", fieldSelector=f"reason={reason}")
        items: list[dict[str, Any]] = found["items"]
        return items

    def events_about(self, name: str) -> list[dict[str, Any]]:
        """The controller's, of a pipeline and of pods whose names begin with its own."""
        found = self.api.get(f"/api/v1/namespaces/{self.namespace}/events")["items"]
        ours = [each for each in found if each["source"].get("component") == "preheat-controller"]
        return [each for each in ours if each["involvedObject"]["name"].startswith(name)]


def pipeline(name: str, spec: Any = SPEC, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "CheckpointPipeline",
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


def pod(name: str, label: str | None = "finetune") -> dict[str, Any]:
    """A pod that no node will take."""
    labels = {} if label is None else {"preheat.dev/pipeline": label}
    spec = {"nodeSelector": {"no": "node"}, "containers": [{"name": "train", "image": "t"}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def has_loader(document: Mapping[str, Any]) -> bool:
    return any(each["name"] == "preheat-loader" for each in document["spec"].get("initContainers", ()))


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def serving(held: Mapping[str, bytes]) -> ssl.SSLContext:
    """The server's side of TLS with what a certificate's Secret holds."""
    certificate = ServingCertificate()
    certificate.load(held)
    return certificate.context


def _authority(held: Mapping[str, bytes]) -> dict[str, str]:
    return {"certificate-authority-data": base64.b64encode(held["ca.crt"]).decode()}
