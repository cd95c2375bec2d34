"""Stands between a process and a server and fails on demand: whole connections, and single requests where it sees them.

It runs in a thread of its own, so that a test may block. Bytes pass untouched; TLS is ended and begun anew where a test
wants to look at requests, else it passes like everything.
"""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self


@dataclass
class Request:
    """One request of HTTP/1.1 that came by; `status` follows when the server has answered."""

    method: str
    target: str  # path and query
    body: bytes = b""
    status: int | None = None
    time: float = field(default_factory=time.monotonic)

    @property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @property
    def writes(self) -> bool:
        return self.method not in ("GET", "HEAD")

    @property
    def watches(self) -> bool:
        return "watch=true" in self.target


@dataclass(frozen=True)
class Answer:
    """Said in the server's place: the server is not asked."""

    code: int
    body: bytes
    headers: tuple[tuple[str, str], ...] = ()

    @classmethod
    def status(cls, code: int, reason: str, message: str = "as the test wants it", **headers: str) -> Answer:
        """A refusal in the API server's words."""
        said = {"kind": "Status", "apiVersion": "v1", "status": "Failure"}
        body = json.dumps({**said, "code": code, "reason": reason, "message": message}).encode()
        named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
        return cls(code, body, (("Content-Type", "application/json"), *named))

    def encode(self) -> bytes:
        lines = [f"HTTP/1.1 {self.code} X", f"Content-Length: {len(self.body)}"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Redirect:
    """The server is asked for something else."""

    target: str


#: The connection ends before the server has heard of the request, or after it has, with no answer.
CUT_BEFORE, CUT_AFTER = object(), object()
#: Neither the server nor the client hears of it again.
HANG = object()
Fault = Answer | Redirect | object | None  # None: it passes
Rule = Callable[[Request], Fault]


class FaultProxy:
    """`with FaultProxy(host, port, ...) as proxy`: listens on `proxy.port` of every address of this machine."""

    def __init__(
        self,
        host: str,
        port: int,
        *,
        upstream_tls: ssl.SSLContext | None = None,
        own_tls: ssl.SSLContext | None = None,
        sees_requests: bool = True,
    ) -> None:
        self.requests: list[Request] = []
        self.rule: Rule = lambda _: None
        self.cut_after: int | None = None  # bytes of answers per connection, then it ends
        self.delay = 0.0  # seconds before every piece of an answer
        self.port = 0
        self._server = (host, port)
        self._tls = (own_tls, upstream_tls)
        self._sees_requests = sees_requests
        self._connections: set[_Connection] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._listening: asyncio.Task[None] | None = None
        self._hole = False

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def refuse(self) -> None:
        """Nobody listens here any more, and what was connected is cut."""
        self._do(self._refuse())

    def open(self) -> None:
        """All is well: connections are taken, and what was held goes on."""
        self._do(self._open())

    def hole(self) -> None:
        """Everything is swallowed: new connections get no answer, old ones carry nothing."""
        self._do(self._hold(everything=True))

    def freeze(self) -> None:
        """What is connected now carries nothing any more, for ever; new connections are as good as ever."""
        self._do(self._hold(everything=False))

    def cut(self) -> None:
        """End every connection."""
        self._do(self._cut())

    def seen(self, method: str, part: str = "") -> list[Request]:
        """The requests of a method whose target holds `part`."""
        return [each for each in list(self.requests) if each.method == method and part in each.target]

    def _do(self, coroutine: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)

    async def _listen(self) -> None:
        listener = socket.create_server(("", self.port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listening = asyncio.create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        with listener:
            while True:
                client, _ = await self._loop.sock_accept(listener)
                connection = _Connection(self, client)
                self._connections.add(connection)
                if self._hole:
                    connection.flowing.clear()
                connection.task = asyncio.create_task(connection.serve(self._server, *self._tls))

    async def _refuse(self) -> None:
        if self._listening:
            self._listening.cancel()
            with suppress(asyncio.CancelledError):
                await self._listening
            self._listening = None
        await self._cut()

    async def _open(self) -> None:
        self._hole = False
        for connection in self._connections:
            if not connection.frozen:
                connection.flowing.set()
        if not self._listening:
            await self._listen()

    async def _hold(self, *, everything: bool) -> None:
        self._hole = everything
        for connection in self._connections:
            connection.flowing.clear()
            connection.frozen = connection.frozen or not everything

    async def _cut(self) -> None:
        tasks = [connection.task for connection in self._connections if connection.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _close(self) -> None:
        await self._refuse()


class _Connection:
    """One client, and the server's side of it."""

    def __init__(self, proxy: FaultProxy, client: socket.socket) -> None:
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.frozen = False
        self.task: asyncio.Task[None] | None = None
        self._proxy = proxy
        self._client = client
        self._asked: Request | None = None
        self._drop_answer = False
        self._writers: list[asyncio.StreamWriter] = []

    async def serve(self, server: tuple[str, int], own: ssl.SSLContext | None, upstream: ssl.SSLContext | None) -> None:
        try:
            await self.flowing.wait()
            reader, writer = await self._accepted(own)
            name = server[0] if upstream else None
            far_reader, far_writer = await asyncio.open_connection(*server, ssl=upstream, server_hostname=name)
            self._writers.append(far_writer)
            asks = self._ask if self._proxy._sees_requests else self._pass
            await _first(asks(reader, far_writer, writer), self._answer(far_reader, writer))
        except (OSError, EOFError, asyncio.LimitOverrunError):
            pass
        finally:
            for writer in self._writers:
                writer.transport.abort()  # type: ignore[attr-defined]
            if not self._writers:
                self._client.close()
            self._proxy._connections.discard(self)

    async def _accepted(self, tls: ssl.SSLContext | None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop, reader = asyncio.get_running_loop(), asyncio.StreamReader()
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, self._client, ssl=tls)
        writer = asyncio.StreamWriter(transport, protocol, reader, loop)
        self._writers.append(writer)
        return reader, writer

    async def _pass(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, _: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65536):
            await self.flowing.wait()
            far.write(piece)
            await far.drain()

    async def _ask(self, reader: asyncio.StreamReader, far: asyncio.StreamWriter, near: asyncio.StreamWriter) -> None:
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            await self.flowing.wait()
            first, _, rest = head.partition(b"\r\n")
            method, target, version = first.decode().split(" ")
            body = await reader.readexactly(_length(rest))
            request = Request(method, target, body)
            self._proxy.requests.append(request)
            fault = self._proxy.rule(request)
            if fault is CUT_BEFORE:
                return
            if fault is HANG:
                self.frozen = True
                self.flowing.clear()
            if isinstance(fault, Answer):
                request.status = fault.code
                near.write(fault.encode())
                await near.drain()
                continue
            if isinstance(fault, Redirect):
                target = fault.target
            await self.flowing.wait()
            self._asked, self._drop_answer = request, fault is CUT_AFTER
            far.write(f"{method} {target} {version}\r\n".encode() + rest + body)
            await far.drain()

    async def _answer(self, far: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        left = self._proxy.cut_after
        while piece := await far.read(65536):
            await self.flowing.wait()
            if self._asked:
                self._asked.status = int(piece.split(b" ", 2)[1])
                self._asked = None
            if self._drop_answer:
                return
            if self._proxy.delay:
                await asyncio.sleep(self._proxy.delay)
            if left is not None:
                piece = piece[:left]
                left -= len(piece)
            near.write(piece)
            await near.drain()
            if left == 0:
                return


async def _first(*work: Awaitable[None]) -> None:
    """Until one of them ends; the others are ended then."""
    tasks = [asyncio.ensure_future(each) for each in work]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _length(headers: bytes) -> int:
    for line in headers.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-length":
            return int(value)
    return 0
