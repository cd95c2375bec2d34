"""An object behind HTTP or HTTPS, read by ranges and pinned to one version.

The first request brings size and version, and with them the end of the object, where a zip file has its directory, or
of a safetensors file the beginning.
A server without byte ranges, or without an ETag or a Last-Modified to pin the object by, is refused.
"""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from urllib.parse import quote

from preheat import __version__
from preheat.blob import Patience, check_range
from preheat.errors import (
    CheckpointError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    TruncatedError,
)
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.http_answer import (
    BUSY,
    PASSING,
    REDIRECTS,
    Headers,
    Pin,
    check_encoding,
    check_part,
    content_length,
    content_range,
    no_ranges,
    refusal,
    retry_after,
    words_for,
)
from preheat.sources.http_connection import Answer, Connection, Connections, Target
from preheat.sources.watchdog import WATCHDOG

#: Bytes of the end that the first request asks for: there a zip file has its directory.
TAIL = 64 * 1024
#: Bytes of the beginning, for a safetensors file; a thousand shards are open at once.
HEAD = 16 * 1024
#: Where a redirect or a signature led is asked again for this long, seconds; both expire, usually after an hour.
LOCATION_LIFETIME = 600.0
LONGEST_SOCKET_WAIT = 30.0
READ_BUFFER = 256 * 1024

_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 16 * 1024
_MAY_HAVE_EXPIRED = frozenset({400, 401, 403, 404, 410})


@dataclass(frozen=True, slots=True)
class Kept:
    """What the first request brought of the content."""

    start: int
    content: bytes


class HttpBlob:
    """The bytes behind a URL. Subclasses change where they are asked for and how a refusal is explained."""

    remote = True

    def __init__(
        self,
        url: str,
        *,
        uri: str,
        headers: Mapping[str, str],
        patience: Patience,
        connections: Connections | None = None,
    ) -> None:
        self.uri = uri
        self.fetched = 0  # bytes of all bodies so far
        self._url = url
        self._headers = dict(headers)
        self._patience = patience
        self._connections = connections or Connections()
        self._lock = threading.Lock()
        self._location: tuple[Target, Target, float] | None = None  # (first, last after redirects, when)
        self._closed = threading.Event()
        self._busy: set[Connection] = set()
        try:
            self.size, self._pin, self._kept = self._discover()
        except BaseException:
            self.close()
            raise

    @property
    def etag(self) -> str | None:
        """The header as the server sent it first; every later answer is held against it."""
        return self._pin.etag

    # What an object store changes.

    def locate(self) -> str:
        """The URL to ask for the object now."""
        return self._url

    def refuse(self, status: int, phrase: str, headers: Headers, body: bytes) -> CheckpointError:
        """The error for a status that trying again does not mend."""
        return refusal(self.uri, status, phrase)

    def name_version(self, headers: Headers, size: int) -> str:
        """How the version is spelled; raises CheckpointSourceError when the server names none."""
        if version := Pin.of(headers).version(size):
            return version
        raise CheckpointSourceError(
            f"the server of {self.uri} sends neither ETag nor Last-Modified, so a replaced file would go unnoticed",
            remedy="Turn one of them on in the server",
        )

    def forget_location(self) -> None:
        """Locate the object anew for the next request."""
        self._location = None

    # What everybody reads by.

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop)."""
        check_range(self, start, stop)
        buffer = memoryview(bytearray(min(stop - start, READ_BUFFER)))
        return b"".join([bytes(view) for view in self.stream(start, stop, buffer)])

    def stream(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        """Bytes [start, stop) in slices of `buffer`, each full but the last and those before a fault."""
        check_range(self, start, stop)
        begin, end = self._kept.start, self._kept.start + len(self._kept.content)
        yield from self._stream_remote(start, min(stop, begin), buffer)
        for position in range(max(start, begin), min(stop, end), max(len(buffer), 1)):
            view = buffer[: min(len(buffer), min(stop, end) - position)]
            view[:] = self._kept.content[position - begin : position - begin + len(view)]
            yield view
        yield from self._stream_remote(max(start, end), stop, buffer)

    def close(self) -> None:
        """Close every connection; a read in another thread then ends in an error instead of going on."""
        self._closed.set()
        with self._lock:
            for connection in self._busy:
                connection.abort()
        self._connections.close()  # those of its folder too: a file that is still read opens new ones

    def _stream_remote(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        attempts = Attempts(self.uri, self._patience, self._closed)
        position = start
        while position < stop:
            try:
                for view in self._receive(position, stop, buffer, attempts):
                    position += len(view)
                    yield view
            except Interrupted as fault:
                attempts.again(fault, self.fetched)

    def _receive(self, start: int, stop: int, buffer: memoryview, attempts: Attempts) -> Iterator[memoryview]:
        headers = {"Range": f"bytes={start}-{stop - 1}", **self._pin.condition()}
        with self._exchange(headers) as answer:
            check_part(self.uri, answer.status, answer.headers, (start, stop), self.size, self._pin)
            position = start
            while position < stop:
                view = buffer[: min(len(buffer), stop - position)]
                filled, fault = self._fill(answer, view, attempts)
                position += filled
                if filled:
                    yield view[:filled]
                if fault:
                    raise fault
                if filled < len(view):
                    raise self._cut(position, stop)

    def _fill(self, answer: Answer, view: memoryview, attempts: Attempts) -> tuple[int, Interrupted | None]:
        """Bytes received: fewer than `view` has when the answer ends or there is a fault."""
        filled = 0
        try:
            with faults(self.uri):  # around all: TLS gives 16 KiB at a time
                while filled < len(view) and (count := answer.receive(view[filled:])):
                    filled += count
                    attempts.received(count)
        except Interrupted as fault:
            return filled, fault
        finally:
            with self._lock:
                self.fetched += filled
        return filled, None

    def _cut(self, position: int, stop: int) -> Interrupted:
        error = TruncatedError(
            f"{self.uri}: the server closed the connection at byte {position} of {position}...{stop}",
            remedy="Check the server's log and any proxy on the way",
        )
        return Interrupted(error)

    # The first request.

    def _discover(self) -> tuple[int, Pin, Kept]:
        first = f"bytes=0-{HEAD - 1}" if self.uri.endswith(".safetensors") else f"bytes=-{TAIL}"
        for wanted in (first, "bytes=0-0"):  # Azure's blob service knows no ranges from the end
            attempts = Attempts(self.uri, self._patience, self._closed)
            while True:
                try:
                    found = self._ask(wanted, attempts)
                    break
                except Interrupted as fault:
                    attempts.again(fault)
            if found:
                return found
        raise no_ranges(self.uri)

    def _ask(self, wanted: str, attempts: Attempts) -> tuple[int, Pin, Kept] | None:
        """Size, pin and the bytes that were asked for; None when the answer is not what was asked for."""
        with self._exchange({"Range": wanted}) as answer:
            headers = answer.headers
            check_encoding(self.uri, headers)
            length = content_length(headers)
            part = content_range(headers) if answer.status == 206 else (0, length or 0, length or 0)
            if part is None or length is None or length > TAIL or part[1] - part[0] != length:
                return None
            start, stop, size = part
            self.version = self.name_version(headers, size)
            buffer = bytearray(length)
            filled, fault = self._fill(answer, memoryview(buffer), attempts)
            if fault:
                raise fault
            if filled < length:
                raise self._cut(start + filled, stop)
            return size, Pin.of(headers), Kept(start, bytes(buffer))

    # One request and its answer.

    @contextmanager
    def _exchange(self, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Ask, follow redirects, and keep the connection if the answer was read to its end."""
        connection, answer = self._follow(headers)
        try:
            yield answer
        finally:
            self._give_back(connection, answer)

    def _give_back(self, connection: Connection, answer: Answer) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = answer.isclosed() and not answer.will_close and not self._closed.is_set()
        if keep:
            self._connections.give(connection)
        else:
            self._drop(connection, answer)

    def _drop(self, connection: Connection, answer: Answer | None = None) -> None:
        with self._lock:
            self._busy.discard(connection)
        if answer:
            answer.close()
        connection.close()

    def _follow(self, headers: Mapping[str, str]) -> tuple[Connection, Answer]:
        for _ in range(2):
            first, target, cached = self._where()
            for _ in range(_MAX_REDIRECTS + 1):
                connection, answer = self._send(target, first, headers)
                if answer.status not in REDIRECTS or not answer.headers.get("Location"):
                    break  # S3 names a bucket's region in a 301 that leads nowhere
                target = self._redirect(connection, answer, target)
            else:
                raise CheckpointSourceError(
                    f"{self.uri} redirects more than {_MAX_REDIRECTS} times", remedy="Check the server's redirects"
                )
            if answer.status in (200, 206):
                if not cached:
                    self._location = first, target, time.monotonic()
                return connection, answer
            self.forget_location()
            error = self._read_refusal(connection, answer)
            if not (cached and answer.status in _MAY_HAVE_EXPIRED):
                raise error
        raise error

    def _where(self) -> tuple[Target, Target, bool]:
        location = self._location
        if location and time.monotonic() - location[2] < LOCATION_LIFETIME:
            return location[0], location[1], True
        target = Target.parse(self.locate())
        return target, target, False

    def _send(self, target: Target, first: Target, headers: Mapping[str, str]) -> tuple[Connection, Answer]:
        own = self._headers if target.origin == first.origin else {}  # they may carry credentials
        fixed = {"Accept-Encoding": "identity", "User-Agent": f"preheat/{__version__}"}
        while True:
            connection = self._connection(target)
            kept_alive = connection.used
            try:
                with faults(self.uri), WATCHDOG.limit(self._patience.timeout_seconds, connection.abort):
                    return connection, connection.get(target.path, {**fixed, **headers, **own})
            except BaseException as error:
                self._drop(connection)
                if not (kept_alive and isinstance(error, Interrupted) and error.at_once):
                    raise

    def _connection(self, target: Target) -> Connection:
        connection = self._connections.take(target, min(self._patience.timeout_seconds, LONGEST_SOCKET_WAIT))
        with self._lock:
            self._busy.add(connection)
        if self._closed.is_set():  # meanwhile: `close` may not have seen it
            connection.abort()
        return connection

    def _redirect(self, connection: Connection, answer: Answer, target: Target) -> Target:
        self._drop(connection, answer)
        return target.redirect(answer.headers["Location"])

    def _read_refusal(self, connection: Connection, answer: Answer) -> CheckpointError:
        """The error for an answer that is no success; raises Interrupted when it may pass."""
        try:
            with faults(self.uri), WATCHDOG.limit(self._patience.timeout_seconds, connection.abort):
                body = answer.read(_MAX_ERROR_BODY)
        finally:
            self._drop(connection, answer)
        if answer.status in PASSING:
            error = CheckpointSourceError(
                f"{self.uri}: the server answered {answer.status} {words_for(answer.status)}", remedy="Try again later"
            )
            raise Interrupted(error, retry_after(answer.headers, time.time()), busy=answer.status in BUSY)
        return self.refuse(answer.status, words_for(answer.status), answer.headers, body)


class HttpFolder:
    """What is beside a URL. A query is sent for every file: it may be a signature for all of them."""

    def __init__(
        self, url: str, query: str, headers: Mapping[str, str], patience: Patience, authorities: str | None = None
    ) -> None:
        self.uri = url
        self._query = query
        self._headers = headers
        self._patience = patience
        self._connections = Connections(authorities)

    def names(self) -> None:
        """Nothing: HTTP has no listing."""

    def open(self, name: str) -> HttpBlob:
        """Ask for size and version of a file."""
        url = self.uri + quote(name, safe="/%:=&~+!$,;'@()*")
        return HttpBlob(
            url + self._query, uri=url, headers=self._headers, patience=self._patience, connections=self._connections
        )


@contextmanager
def faults(uri: str) -> Iterator[None]:
    """Turn what sockets and parsers raise into Interrupted, or into an error that no further attempt mends."""
    try:
        yield
    except ssl.SSLCertVerificationError as error:
        raise CheckpointSourceError(
            f"{uri}: the server's certificate is not trusted: {error.verify_message}",
            remedy="Give the authority's certificate in caBundle, or in a file named by SSL_CERT_FILE",
        ) from error
    except TimeoutError as error:
        raise Interrupted(
            CheckpointTimeoutError(f"{uri}: the server does not answer", remedy="Check the server and the network")
        ) from error
    except (OSError, HTTPException) as error:
        # An HTTPException may quote the URL with its signature.
        reason = (error.strerror or str(error)) if isinstance(error, OSError) else ""
        raise Interrupted(
            CheckpointSourceError(
                f"{uri} cannot be reached: {reason or type(error).__name__}", remedy="Check address, port and network"
            ),
            # A kept connection that the server has closed meanwhile says nothing about the server.
            at_once=isinstance(error, (ConnectionResetError, BrokenPipeError)),
        ) from error
