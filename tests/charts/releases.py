"""The chart installed in the real cluster, with images that cannot be pulled: its processes run on this machine."""

from __future__ import annotations

import json
import os
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

import httpx2
import yaml

from cluster.lifecycle import Cluster
from crds import installed

CHART = Path(__file__).parents[2] / "charts" / "preheat"
RELEASE = "chart-test"
FULL_NAME = f"{RELEASE}-preheat"
ADDRESS = f"{FULL_NAME}-webhook"
#: For machines with other work on them.
DEADLINE_SECONDS = 90
T = TypeVar("T")
#: The webhook as the image starts it, but looking at its certificate all the time.
_WEBHOOK = """
import asyncio
from preheat_operator import logs, serving_certificate, webhook
from preheat_operator.settings import Settings
serving_certificate.CHECK_SECONDS = serving_certificate.RETRY_SECONDS = 0.2
settings = Settings.from_environment()
logs.configure(settings)
asyncio.run(webhook.serve(settings))
"""


@contextmanager
def released(cluster: Cluster, namespace: str, *values: str) -> Iterator[str]:
    """The chart in a namespace of its own, and the CRD."""
    cluster.kubectl("create", "namespace", namespace)
    try:
        with installed(cluster):
            try:
                cluster.helm("install", RELEASE, CHART, "--namespace", namespace, *values)
                yield namespace
            finally:
                cluster.helm("uninstall", RELEASE, "--namespace", namespace, "--ignore-not-found")
    finally:
        cluster.kubectl("delete", "namespace", namespace, "--wait=false")


def kubeconfig(cluster: Cluster, namespace: str, account: str, file: Path) -> Path:
    """A kubeconfig with the rights of one of the release's accounts and no others."""
    token = cluster.kubectl("--namespace", namespace, "create", "token", account).strip()
    config = json.loads(cluster.kubectl("config", "view", "--raw", "--minify", "--flatten", "-o", "json"))
    config["users"][0]["user"] = {"token": token}
    file.write_text(json.dumps(config))
    return file


def settings_of(cluster: Cluster, namespace: str, deployment: str) -> dict[str, str]:
    """The settings that the chart gives to a process."""
    found = json.loads(cluster.kubectl("--namespace", namespace, "get", "deployment", deployment, "-o", "json"))
    [container] = found["spec"]["template"]["spec"]["containers"]
    return {each["name"]: each.get("value", namespace) for each in container["env"]}


class WebhookProcess:
    """One replica of the webhook on this machine, with the account and the settings of the release."""

    def __init__(self, cluster: Cluster, namespace: str, folder: Path) -> None:
        self.port, self.health = _free_port(), _free_port()
        variables = {
            **settings_of(cluster, namespace, ADDRESS),
            "KUBECONFIG": str(kubeconfig(cluster, namespace, ADDRESS, folder / f"kubeconfig-{self.port}")),
            "PREHEAT_PORT": str(self.port),
            "PREHEAT_HEALTH_PORT": str(self.health),
        }
        self._process = subprocess.Popen([sys.executable, "-c", _WEBHOOK], env={**os.environ, **variables})

    def says(self, text: str) -> None:
        """Wait until /readyz gives this answer."""
        deadline = time.monotonic() + DEADLINE_SECONDS
        while text not in (answer := self._readiness()):
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)

    def _readiness(self) -> str:
        try:
            return httpx2.get(f"http://127.0.0.1:{self.health}/readyz").text
        except httpx2.HTTPError as error:
            return str(error)

    def shown(self) -> bytes:
        """The certificate that it serves."""
        return ssl.get_server_certificate(("127.0.0.1", self.port)).encode()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


def endpoints(namespace: str, cluster: Cluster, *ports: int) -> str:
    """Endpoints of the webhook's Service: processes on this machine in place of pods."""
    slices = [
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"replica-{number}",
                "namespace": namespace,
                "labels": {
                    "kubernetes.io/service-name": ADDRESS,
                    "endpointslice.kubernetes.io/managed-by": "test",
                },
            },
            "addressType": "IPv4",
            "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
            "endpoints": [{"addresses": [cluster.bridge_ip], "conditions": {"ready": True}}],
        }
        for number, port in enumerate(ports)
    ]
    return yaml.safe_dump_all(slices)


def until(condition: Callable[[], T], what: str) -> T:
    """The condition's first true value."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.1)
    return found


def _free_port() -> int:
    """Below the ports of outgoing connections, one of which may take another before it is bound."""
    while True:
        port = 20000 + secrets.randbelow(10000)
        with socket.socket(socket.AF_INET6) as probe, suppress(OSError):
            probe.bind(("::", port))
            return port
