"""A Kubernetes of nothing but etcd and the API server, on loopback: no nodes, no controllers, no noise of theirs."""

from __future__ import annotations

import base64
import json
import os
import platform
import secrets
import ssl
import subprocess
import urllib.request
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sending import Request, Sent, Server, send
from servers import free_port, running

from cluster.binaries import ETCD, KUBERNETES, binary
from cluster.commands import run, wait_until


class ApiServer:
    """The API server, asked as its administrator."""

    def __init__(self, folder: Path, port: int, token: str) -> None:
        self.folder = folder
        self.url = f"https://127.0.0.1:{port}"
        self.token = token
        self.certificate = folder / "api-server" / "apiserver.crt"
        self.kubeconfig = folder / "kubeconfig"

    def get(self, path: str) -> Any:
        """What it answers; text that is no JSON as it is."""
        return self._ask(path)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Create one object; raises HTTPError with a refusal."""
        return self._ask(path, json.dumps(body).encode())

    def ready(self) -> bool:
        """Whether it works by now."""
        try:
            return bool(self.get("/readyz") == "ok")
        except OSError:
            return False

    def listed(self, path: str) -> list[Any]:
        """All of a collection, page by page."""
        found, rest = [], ""
        while True:
            page = self.get(f"{path}?limit=500{rest}")
            found += page["items"]
            if not page["metadata"].get("continue"):
                return found
            rest = f"&continue={page['metadata']['continue']}"

    def send(self, requests: Iterable[Request], *, at_once: int = 32, expect: str = "") -> Sent:
        """Send requests; see `sending.send`."""
        server = Server(self.url, self.certificate, token=self.token)
        return send(server, requests, self.folder, at_once=at_once, expect=expect)

    def must_send(self, requests: Iterable[Request], *, at_once: int = 32) -> Sent:
        """Send requests of which none may fail."""
        sent = self.send(requests, at_once=at_once)
        if sent.failed:
            raise RuntimeError(f"{sent.failed} of {len(sent.seconds)} requests failed: {list(sent.failures)[:3]}")
        return sent

    def apply(self, manifests: Iterable[Any]) -> None:
        """kubectl apply."""
        self._kubectl(manifests, "apply", "--server-side", "--force-conflicts")

    def delete(self, manifests: Iterable[Any]) -> None:
        """kubectl delete."""
        self._kubectl(manifests, "delete")

    def _kubectl(self, manifests: Iterable[Any], *words: str) -> None:
        text = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(manifests)})
        run(binary(KUBERNETES, "kubectl"), "--kubeconfig", self.kubeconfig, *words, "-f", "-", stdin=text)

    def _ask(self, path: str, body: bytes | None = None) -> Any:
        trust = ssl.create_default_context(cafile=str(self.certificate))
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}
        asked = urllib.request.Request(f"{self.url}{path}", body, headers)
        with urllib.request.urlopen(asked, context=trust, timeout=30) as answer:
            said = answer.read()
            return json.loads(said) if "json" in answer.headers["Content-Type"] else said.decode()


@contextmanager
def api_server(folder: Path) -> Iterator[ApiServer]:
    """An empty one, until the block ends; it writes into the folder, which may be memory."""
    client, peer, port = free_port(), free_port(), free_port()
    api = ApiServer(folder, port, secrets.token_hex(16))
    (folder / "tokens.csv").write_text(f"{api.token},admin,admin,system:masters\n")
    _write_key(folder / "service-account")
    with ExitStack() as stack:
        stack.enter_context(running(_etcd(folder, client, peer), client))
        stack.enter_context(running(_kube_apiserver(folder, client, port), port))
        wait_until("the API server is ready", api.ready, 60)
        _write_kubeconfig(api)
        yield api


def _etcd(folder: Path, client: int, peer: int) -> list[object]:
    listen, talk = f"http://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    return [
        binary(KUBERNETES, ETCD), "--data-dir", folder / "etcd", "--unsafe-no-fsync", "--log-level=error",
        "--listen-client-urls", listen, "--advertise-client-urls", listen, "--listen-peer-urls", talk,
        "--initial-advertise-peer-urls", talk, "--initial-cluster", f"default={talk}",
    ]  # fmt: skip


def _kube_apiserver(folder: Path, etcd: int, port: int) -> list[object]:
    return [
        binary(KUBERNETES, "kube-apiserver"),
        f"--etcd-servers=http://127.0.0.1:{etcd}", "--bind-address=127.0.0.1", f"--secure-port={port}",
        "--advertise-address=127.0.0.1", f"--cert-dir={folder / 'api-server'}", "--endpoint-reconciler-type=none",
        "--service-cluster-ip-range=10.215.0.0/16", "--authorization-mode=RBAC",
        f"--token-auth-file={folder / 'tokens.csv'}", "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={folder / 'service-account.pub'}",
        f"--service-account-signing-key-file={folder / 'service-account.key'}", "--profiling=false",
    ]  # fmt: skip


def _write_key(path: Path) -> None:
    key, public = f"{path}.key", f"{path}.pub"
    subprocess.run(["openssl", "genpkey", "-quiet", "-algorithm", "RSA", "-out", key], check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)


def _write_kubeconfig(api: ApiServer) -> None:
    authority = base64.b64encode(api.certificate.read_bytes()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "bench", "cluster": {"server": api.url, "certificate-authority-data": authority}}],
        "users": [{"name": "admin", "user": {"token": api.token}}],
        "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "admin"}}],
        "current-context": "bench",
    }
    api.kubeconfig.write_text(json.dumps(content))


def memory() -> Path | None:
    """Where a bench's files lie: memory where there is some, so that no disk is measured; else the usual place."""
    folder = Path("/dev/shm")
    return folder if folder.is_dir() else None


def versions() -> str:
    """What was measured, on what."""
    packages = ", ".join(f"{name} {version(name)}" for name in ("preheat", "kopf", "aiohttp", "lightkube"))
    machine = f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores"
    return f"{packages}; Kubernetes {KUBERNETES.version()}; {machine}"
