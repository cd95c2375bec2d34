"""An API server for what follows one kind of object: it lists and watches as the real one does, and fails on demand."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx2
from aiohttp import web
from aiohttp.test_utils import TestServer


class ApiServer:
    """The objects of one kind, by name."""

    def __init__(self) -> None:
        self.version = 10
        self.items: dict[str, dict[str, Any]] = {}
        self.watches: list[asyncio.Queue[dict[str, Any] | None]] = []
        self.lists = 0
        self.page = 500
        self.failing = False
        self.hasty = False  # ends every watch at once, as a proxy in between may
        self.from_versions: list[str] = []
        self.asked: list[tuple[str, str | None]] = []  # what was accepted, and which objects were selected

    def put(self, item: dict[str, Any], *, told: bool = True) -> None:
        kind = "MODIFIED" if item["metadata"]["name"] in self.items else "ADDED"
        self.items[item["metadata"]["name"]] = item
        self._tell(kind, item, told)

    def delete(self, name: str, *, told: bool = True) -> None:
        self._tell("DELETED", self.items.pop(name), told)

    def send(self, event: dict[str, Any] | None) -> None:
        """Send an event to whoever watches; None ends the watches."""
        for watch in self.watches:
            watch.put_nowait(event)

    def _tell(self, kind: str, item: dict[str, Any], told: bool) -> None:
        self.version += 1
        item["metadata"]["resourceVersion"] = str(self.version)
        if told:
            self.send({"type": kind, "object": item})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if self.failing:
            raise web.HTTPServiceUnavailable
        self.asked.append((request.headers["Accept"], request.query.get("labelSelector")))
        if "watch" in request.query:
            return await self._watch(request)
        self.lists += 1
        start, items = int(request.query.get("continue", 0)), list(self.items.values())
        metadata: dict[str, Any] = {"resourceVersion": str(self.version)}
        if start + self.page < len(items):
            metadata["continue"] = str(start + self.page)
        page: list[Any] | None = items[start : start + self.page]
        if not items and "PartialObjectMetadata" in request.headers["Accept"]:
            page = None  # as Go writes a list that was never made
        return web.json_response({"metadata": metadata, "items": page})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        self.from_versions.append(request.query["resourceVersion"])
        response, events = web.StreamResponse(), asyncio.Queue[dict[str, Any] | None]()
        await response.prepare(request)
        if self.hasty:
            return response
        self.watches.append(events)
        try:
            while (event := await events.get()) is not None:
                await response.write(json.dumps(event, ensure_ascii=False).encode() + b"\n")
        finally:
            self.watches.remove(events)
        return response


@asynccontextmanager
async def serving(path: str) -> AsyncIterator[tuple[ApiServer, httpx2.AsyncClient]]:
    """The server of a collection, and a client for it."""
    api, application = ApiServer(), web.Application()
    application.router.add_get(f"/{path}", api.answer)
    async with TestServer(application) as server:
        async with httpx2.AsyncClient(base_url=str(server.make_url("/"))) as http:
            yield api, http
        api.send(None)


async def until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.005)
