"""An API server that knows one Secret and one webhook configuration, for tests of the webhook's certificate."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer
from lightkube import AsyncClient
from lightkube.config.kubeconfig import SingleConfig
from lightkube.config.models import Cluster, Context, User

NAMESPACE, SECRET, SERVICE, CONFIGURATION = WHERE = (
    "preheat-system",
    "preheat-webhook-certificate",
    "preheat-webhook",
    "preheat",
)


class ApiServer:
    """One Secret and one webhook configuration, with versions that must match."""

    def __init__(self) -> None:
        self.secret: dict[str, Any] | None = None
        self.configuration: dict[str, Any] | None = {"webhooks": [webhook("pods.preheat.dev")]}
        self.version = 0
        self.patches: list[Any] = []
        self.overtaken_by: dict[str, bytes] | None = None  # what another replica writes just before we do
        self.renewed_meanwhile: dict[str, bytes] | None = None  # what it writes while we publish

    @asynccontextmanager
    async def client(self) -> AsyncIterator[AsyncClient]:
        application, base = web.Application(), f"/api/v1/namespaces/{NAMESPACE}/secrets"
        application.router.add_get(base + "/{name}", self.get_secret)
        application.router.add_post(base, self.write_secret)
        application.router.add_put(base + "/{name}", self.write_secret)
        path = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{CONFIGURATION}"
        application.router.add_get(path, self.get_configuration)
        application.router.add_patch(path, self.apply_configuration)
        async with TestServer(application) as server:
            cluster = Cluster(server=str(server.make_url("")))
            config = SingleConfig(context_name="t", context=Context(cluster="t"), cluster=cluster, user=User())
            async with AsyncClient(config) as client:
                yield client

    def hold(self, data: Mapping[str, bytes]) -> None:
        self.version += 1
        metadata = {"name": SECRET, "namespace": NAMESPACE, "resourceVersion": str(self.version)}
        self.secret = {"metadata": metadata, "data": {k: b64encode(v).decode() for k, v in data.items()}}

    def held(self) -> dict[str, bytes]:
        assert self.secret is not None
        return {key: b64decode(value) for key, value in self.secret["data"].items()}

    def publish(self, bundle: bytes | None) -> None:
        assert self.configuration is not None
        client = self.configuration["webhooks"][0]["clientConfig"]
        client.update(caBundle=b64encode(bundle).decode()) if bundle else client.pop("caBundle", None)

    def published(self) -> bytes:
        assert self.configuration is not None
        return b64decode(self.configuration["webhooks"][0]["clientConfig"].get("caBundle", ""))

    async def get_secret(self, _: web.Request) -> web.Response:
        return _json(self.secret) if self.secret else _status(404)

    async def write_secret(self, request: web.Request) -> web.Response:
        sent = await request.json()
        if self.overtaken_by is not None:
            self.hold(self.overtaken_by)
            self.overtaken_by = None
        current = self.secret["metadata"]["resourceVersion"] if self.secret else None
        if sent["metadata"].get("resourceVersion") != current:
            return _status(409)
        self.hold({key: b64decode(value) for key, value in sent["data"].items()})
        return _json(self.secret)

    async def get_configuration(self, _: web.Request) -> web.Response:
        return _json(self.configuration) if self.configuration else _status(404)

    async def apply_configuration(self, request: web.Request) -> web.Response:
        sent = await request.json()
        self.patches.append((request.content_type, dict(request.query), sent))
        if self.renewed_meanwhile is not None:
            self.hold(self.renewed_meanwhile)
            self.renewed_meanwhile = None
        assert self.configuration is not None
        for known, change in zip(self.configuration["webhooks"], sent["webhooks"], strict=True):
            known["clientConfig"].update(change["clientConfig"])
        return _json(self.configuration)


def webhook(name: str) -> dict[str, Any]:
    return {"name": name, "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {}}


def _status(code: int) -> web.Response:
    return _json({"kind": "Status", "code": code, "message": str(code)}, code)


def _json(document: Any, code: int = 200) -> web.Response:
    # The real one names no character set, and lightkube looks closely.
    return web.Response(body=json.dumps(document), status=code, headers={"Content-Type": "application/json"})
