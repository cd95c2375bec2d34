"""Plain HTTP for the kubelet and Prometheus: /healthz, /readyz and /metrics; every other path is 404."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry

from preheat_operator.metrics import exposition

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
Check = Callable[[], str | None]  # why not, or None when all is well


@asynccontextmanager
async def serving(port: int, *, alive: Check, ready: Check, registry: CollectorRegistry) -> AsyncIterator[None]:
    """Answer on `port` of every address until the block ends."""
    application = web.Application()
    application.add_routes(
        [
            web.get("/healthz", _answer(alive)),
            web.get("/readyz", _answer(ready)),
            web.get("/metrics", _metrics(registry)),
        ]
    )
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port).start()
        yield
    finally:
        await runner.cleanup()


def _answer(check: Check) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        reason = check()
        return web.Response(text=reason or "ok", status=503 if reason else 200)

    return answer


def _metrics(registry: CollectorRegistry) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(body=exposition(registry), headers={"Content-Type": CONTENT_TYPE_LATEST})

    return answer
