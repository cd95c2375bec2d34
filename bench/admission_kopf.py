"""The same injection behind kopf's own admission server and index.

Usage: admission_kopf.py PORT CERTIFICATE KEY PIPELINES
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from typing import Any

import kopf

from preheat_operator import api, health, kube, metrics
from preheat_operator.controller import watching
from preheat_operator.injection import inject
from preheat_operator.settings import Settings

Found = Mapping[tuple[str, str], Any]


def registry(settings: Settings, indexed: set[tuple[str, str]]) -> kopf.OperatorRegistry:
    """What kopf watches and answers. Its index parses each pipeline once, as our cache does."""
    registry = kopf.OperatorRegistry()

    @kopf.on.login(registry=registry)
    def login(**_: Any) -> kopf.ConnectionInfo:
        return kube.connection()

    @kopf.index(api.GROUP, api.VERSION, api.PLURAL, id="pipelines", registry=registry)
    async def pipelines(namespace: str, name: str, body: Mapping[str, Any], **_: Any) -> dict[tuple[str, str], Any]:
        indexed.add((namespace, name))
        return {(namespace, name): api.Pipeline.parse(body)}

    @kopf.on.mutate("v1", "pods", id="inject", operations=["CREATE"], registry=registry)
    async def injected(
        namespace: str, labels: Mapping[str, str], body: Mapping[str, Any], patch: Any, pipelines: Found, **_: Any
    ) -> None:
        (pipeline,) = pipelines[namespace, labels[api.LABEL]]
        pod = inject(body, pipeline, settings)
        patch["metadata"] = {"annotations": pod["metadata"]["annotations"]}
        patch["spec"] = pod["spec"]

    return registry


async def main(port: int, certificate: str, key: str, expected: int) -> None:
    """Answer until the process is told to stop. Ready when the index is full: kopf itself answers before it is."""
    settings, operator = Settings.from_environment(), watching()
    operator.admission.server = kopf.WebhookServer(addr="127.0.0.1", port=port, certfile=certificate, pkeyfile=key)
    indexed: set[tuple[str, str]] = set()

    def ready() -> str | None:
        return f"{len(indexed)} of {expected} are indexed" if len(indexed) < expected else None

    async with health.serving(settings.health_port, alive=lambda: None, ready=ready, registry=metrics.WEBHOOK):
        await kopf.operator(
            registry=registry(settings, indexed),
            settings=operator,
            identity="bench",
            standalone=True,
            clusterwide=True,
        )


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
