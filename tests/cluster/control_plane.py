"""etcd, the API server, the controller manager and the scheduler, with the credentials they share.

The API server signs its own certificate and listens on the bridge alone, where pods reach it too.
"""

from __future__ import annotations

import base64
import json
import secrets
from pathlib import Path

from cluster import settings
from cluster.binaries import ETCD, KUBERNETES, NEWEST, binary
from cluster.commands import run, wait_until
from cluster.processes import Processes

SERVER = f"https://{settings.BRIDGE_IP}:{settings.API_PORT}"
NODE_USER = f"system:node:{settings.NODE_NAME}"
# Who may speak to the API server, and the group that gives the right to.
USERS = {
    "admin": "system:masters",
    "system:kube-controller-manager": "",
    "system:kube-scheduler": "",
    "system:kube-proxy": "",
    NODE_USER: "system:nodes",
}


def start_api_server(processes: Processes, scratch: Path) -> None:
    """Start etcd and the API server; `wait_for_api_server` must follow."""
    _write_keys(scratch)
    client, peer = (f"http://127.0.0.1:{port}" for port in settings.ETCD_PORTS)
    processes.start(
        "etcd", binary(NEWEST, ETCD), "--data-dir", scratch / "etcd", "--unsafe-no-fsync", "--log-level=warn",
        "--listen-client-urls", client, "--advertise-client-urls", client, "--listen-peer-urls", peer,
        "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}",
    )  # fmt: skip
    processes.start(
        "kube-apiserver", binary(KUBERNETES, "kube-apiserver"),
        f"--etcd-servers={client}",
        f"--bind-address={settings.BRIDGE_IP}", f"--advertise-address={settings.BRIDGE_IP}",
        f"--secure-port={settings.API_PORT}", f"--cert-dir={scratch / 'api-server'}",
        f"--service-cluster-ip-range={settings.SERVICE_NETWORK}",
        "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction", "--allow-privileged",
        f"--token-auth-file={scratch / 'tokens.csv'}",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-account-key-file={scratch / 'service-account.pub'}",
        f"--service-account-signing-key-file={scratch / 'service-account.key'}",
        "--enable-aggregator-routing",  # webhooks' Services resolve to endpoints, without a proxy
        "--kubelet-preferred-address-types=InternalIP", "--profiling=false",
    )  # fmt: skip


def wait_for_api_server(scratch: Path) -> None:
    """Wait until it answers, then write a kubeconfig for every user."""
    certificate = scratch / "api-server" / "apiserver.crt"
    wait_until("the API server has a certificate", lambda: certificate.exists() and certificate.stat().st_size > 0, 60)
    tokens = dict(line.split(",")[1::-1] for line in (scratch / "tokens.csv").read_text().splitlines())
    for user in USERS:
        _write_kubeconfig(kubeconfig(scratch, user), certificate, user, tokens[user])
    kubectl = (binary(KUBERNETES, "kubectl"), "--kubeconfig", kubeconfig(scratch, "admin"))
    wait_until("the API server is ready", lambda: run(*kubectl, "get", "--raw", "/readyz") == "ok", 90)


def start_controllers(processes: Processes, scratch: Path) -> None:
    """Start the controller manager and the scheduler."""
    processes.start(
        "kube-controller-manager", binary(KUBERNETES, "kube-controller-manager"),
        f"--kubeconfig={kubeconfig(scratch, 'system:kube-controller-manager')}",
        "--bind-address=127.0.0.1", "--leader-elect=false", "--use-service-account-credentials",
        "--controllers=*,-nodeipam", f"--root-ca-file={scratch / 'api-server' / 'apiserver.crt'}",
        f"--service-account-private-key-file={scratch / 'service-account.key'}",
    )  # fmt: skip
    processes.start(
        "kube-scheduler", binary(KUBERNETES, "kube-scheduler"),
        f"--kubeconfig={kubeconfig(scratch, 'system:kube-scheduler')}",
        "--bind-address=127.0.0.1", "--leader-elect=false",
    )  # fmt: skip


def kubeconfig(scratch: Path, user: str) -> Path:
    """Where a user's kubeconfig lies."""
    return scratch / f"{user.rpartition(':')[2]}.kubeconfig"


def _write_keys(scratch: Path) -> None:
    key, public = scratch / "service-account.key", scratch / "service-account.pub"
    run("openssl", "genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", key)
    run("openssl", "pkey", "-in", key, "-pubout", "-out", public)
    lines = [f"{secrets.token_hex(16)},{user},{user},{group}" for user, group in USERS.items()]
    tokens = scratch / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text("\n".join(lines) + "\n")


def _write_kubeconfig(file: Path, certificate: Path, user: str, token: str) -> None:
    authority = base64.b64encode(certificate.read_bytes()).decode()
    content = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "preheat", "cluster": {"server": SERVER, "certificate-authority-data": authority}}],
        "users": [{"name": user, "user": {"token": token}}],
        "contexts": [{"name": "preheat", "context": {"cluster": "preheat", "user": user}}],
        "current-context": "preheat",
    }
    file.touch(mode=0o600)
    file.write_text(json.dumps(content, indent=2))
