"""Requests that carry something to a server: tried again where that helps, over connections that are kept."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from socket import socket

from preheat import __version__
from preheat.blob import Patience
from preheat.errors import CheckpointSourceError, NoSpaceError
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.http_answer import BUSY, PASSING, Headers, retry_after, words_for
from preheat.sources.http_connection import LONGEST_SOCKET_WAIT, Answer, Body, Connection, Connections, Target
from preheat.sources.http_faults import faults
from preheat.sources.watchdog import WATCHDOG
from preheat.transfer.pace import REMOTE, ramped
from preheat.uploading.content import Content, Passed

_MOST = 4 << 20  # bytes of an answer: a thousand parts of an upload, named one by one

#: Where a request goes and the headers that it carries; asked for before every attempt, because signatures age.
Located = Callable[[], tuple[str, Mapping[str, str]]]


@dataclass(frozen=True)
class Reply:
    """What a server said."""

    status: int
    headers: Headers
    body: bytes

    @property
    def good(self) -> bool:
        """Whether it did what it was asked."""
        return 200 <= self.status < 300

    @property
    def phrase(self) -> str:
        """What the status means."""
        return words_for(self.status)


class Text:
    """A body that is in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content
        self.size = len(content)

    def send(self, to: socket) -> None:
        """Write all of it."""
        to.sendall(self._content)


class Stretch:
    """A body that is a part of a file."""

    def __init__(self, content: Content, start: int, stop: int) -> None:
        self._content = content
        self._start, self._stop = start, stop
        self.size = stop - start

    def passing(self, passed: Passed) -> Body:
        """The same, telling of bytes as they go."""
        return _Told(self._content, self._start, self._stop, passed)


@dataclass(frozen=True)
class _Told:
    content: Content
    start: int
    stop: int
    passed: Passed

    def send(self, to: socket) -> None:
        self.content.send(to, self.start, self.stop, self.passed)


class Sender:
    """Asks one server. Safe in several threads; once closed, what is under way in others ends in an error."""

    def __init__(self, uri: str, connections: Connections, patience: Patience) -> None:
        self._uri = uri
        self._connections = connections
        self._patience = patience
        self._lock = threading.Lock()
        self._busy: set[Connection] = set()
        self._closed = threading.Event()

    def ask(
        self,
        method: str,
        located: Located,
        body: Text | Stretch | None = None,
        *,
        advance: Passed = lambda count: None,
        passing: Collection[int] = PASSING,
    ) -> Reply:
        """What the server says, whatever it is; only what may pass is tried again, as patiently as sources are read.

        `advance` is told of the body's bytes as they go, and takes them back when they have to go again.
        """
        attempts = Attempts(self._uri, self._patience, self._closed)
        while True:
            sent = _Count(advance, attempts)
            try:
                reply = self._once(method, located, body, sent)
                if reply.status not in passing:
                    return reply
                raise _busy(self._uri, reply)
            except Interrupted as fault:
                sent.take_back()
                # Of a kept connection that the server has closed meanwhile nothing is to be learned.
                if not (fault.at_once and sent.kept):
                    attempts.again(fault)

    def close(self) -> None:
        """End what is under way, and let go of all connections."""
        self._closed.set()
        with self._lock:
            for connection in self._busy:
                connection.abort()
        self._connections.close()

    def _once(self, method: str, located: Located, body: Text | Stretch | None, count: _Count) -> Reply:
        url, headers = located()
        target = Target.parse(url)
        headers = {"User-Agent": f"preheat/{__version__}", "Accept-Encoding": "identity", **headers}
        if body is not None:
            headers["Content-Length"] = str(body.size)
        sent = body.passing(count.add) if isinstance(body, Stretch) else body
        connection = self._connection(target)
        count.kept = connection.used
        answer: Answer | None = None
        try:
            with faults(self._uri):
                answer = connection.ask(method, target.path, headers, sent)
                with WATCHDOG.limit(self._patience.timeout_seconds, connection.abort):
                    reply = Reply(answer.status, answer.headers, answer.read(_MOST))
        finally:
            self._give_back(connection, answer)
        return reply

    def _connection(self, target: Target) -> Connection:
        connection = self._connections.take(target, min(self._patience.timeout_seconds, LONGEST_SOCKET_WAIT))
        with self._lock:
            self._busy.add(connection)
            if self._closed.is_set():
                connection.abort()
        return connection

    def _give_back(self, connection: Connection, answer: Answer | None) -> None:
        with self._lock:
            self._busy.discard(connection)
        if answer and answer.isclosed() and not answer.will_close and not self._closed.is_set():
            self._connections.give(connection)
        else:
            connection.close()


def paced(advance: Passed) -> tuple[Callable[[], int], Passed]:
    """How many threads there shall be at any time, and what is to be told of bytes: it waits where there is a limit."""
    size, passed = ramped(REMOTE, advance)
    return size, lambda count: passed(count) if count > 0 else advance(count)


class _Count:
    """Bytes of one attempt, which did not count if it fails."""

    def __init__(self, advance: Passed, attempts: Attempts) -> None:
        self._advance = advance
        self._attempts = attempts
        self._count = 0
        self.kept = False  # whether the connection was used before

    def add(self, count: int) -> None:
        self._count += count
        self._advance(count)
        self._attempts.received(count)

    def take_back(self) -> None:
        if self._count:
            self._advance(-self._count)


def _busy(uri: str, reply: Reply) -> Interrupted:
    error = CheckpointSourceError(f"{uri}: the server answered {reply.status} {reply.phrase}", remedy="Try again later")
    return Interrupted(error, retry_after(reply.headers, time.time()), busy=reply.status in BUSY)


def full(uri: str, status: int) -> NoSpaceError:
    """The other end has no room."""
    return NoSpaceError(f"{uri} is full: the server answered {status}", remedy="Make room there; what is there stays")
