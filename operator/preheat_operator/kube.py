"""The kinds that the controller reads and writes, as plain dictionaries, and the connection both clients share."""

from __future__ import annotations

from pathlib import Path

import httpx2
import kopf
import msgspec
from lightkube.config import client_adapter
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.generic_resource import create_global_resource, create_namespaced_resource

from preheat_operator import api

CheckpointPipeline = create_namespaced_resource(api.GROUP, api.VERSION, api.KIND, api.PLURAL)
Pod = create_namespaced_resource("", "v1", "Pod", "pods")
Job = create_namespaced_resource("batch", "v1", "Job", "jobs")
PersistentVolumeClaim = create_namespaced_resource("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims")
Node = create_global_resource("", "v1", "Node", "nodes")
Event = create_namespaced_resource("", "v1", "Event", "events")


#: What a client of ours raises when the API server is away, refuses, or something else answers in its place.
NO_ANSWER = (httpx2.HTTPError, msgspec.MsgspecError, KeyError)


def present() -> SingleConfig:
    """The cluster of this pod, else of the current kubeconfig; raises RuntimeError where there is neither."""
    config = KubeConfig.from_env().get()
    if config is None:
        raise RuntimeError("neither in a pod nor with a kubeconfig: there is no API server to follow")
    return config


def http(config: SingleConfig) -> httpx2.AsyncClient:
    """A client for what lightkube does not do; paths are relative to the API server."""
    return client_adapter.AsyncClient(config, client_adapter.ConnectionParams(timeout=httpx2.Timeout(10)))


def asked_to_wait(error: Exception) -> float:
    """The seconds for which an overloaded API server asks to be left alone; never longer than a minute."""
    told = error.response.headers.get("Retry-After", "") if isinstance(error, httpx2.HTTPStatusError) else ""
    return min(float(told), 60) if told.isdecimal() else 0


def connection(config: SingleConfig | None = None) -> kopf.ConnectionInfo:
    """The cluster of this pod, else of the current kubeconfig, in kopf's words.

    kopf's own in-cluster login asks a DNS server for the API server; the kubelet's variables need none. Called again
    whenever the API server refuses the token, which the kubelet renews.
    """
    config = config or KubeConfig.from_env().get()
    if config is None:
        raise kopf.LoginError("neither in a pod nor with a kubeconfig: there is no cluster to log in to")
    cluster, user = config.cluster, config.user or User()
    return kopf.ConnectionInfo(
        server=cluster.server,
        ca_path=_path(cluster.certificate_auth, config),
        ca_data=cluster.certificate_auth_data,
        insecure=cluster.insecure,
        username=user.username,
        password=user.password,
        scheme="Bearer" if user.token or user.token_file else None,
        token=Path(user.token_file).read_text().strip() if user.token_file else user.token,
        certificate_path=_path(user.client_cert, config),
        certificate_data=user.client_cert_data,
        private_key_path=_path(user.client_key, config),
        private_key_data=user.client_key_data,
        trust_env=True,
    )


def _path(path: str | None, config: SingleConfig) -> str | None:
    """Paths in a kubeconfig are relative to it."""
    return str(config.abs_file(path)) if path else None
