"""An object behind HTTP or HTTPS, read by ranges and pinned to one version.

The first request brings size and version, and with them the end of the object, where a zip file has its directory, or
of a safetensors file the beginning.
A server without byte ranges, or without an ETag or a Last-Modified to pin the object by, is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from preheat.blob import Patience, check_range
from preheat.errors import CheckpointError, CheckpointSourceError, TruncatedError
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.http_answer import (
    Headers,
    Pin,
    check_encoding,
    check_part,
    content_length,
    content_range,
    no_ranges,
    refusal,
)
from preheat.sources.http_connection import Answer, Connections
from preheat.sources.http_exchange import Exchanges
from preheat.sources.http_faults import faults

#: Bytes of the end that the first request asks for: there a zip file has its directory.
TAIL = 64 * 1024
#: Bytes of the beginning, for a safetensors file; a thousand shards are open at once.
HEAD = 16 * 1024
READ_BUFFER = 256 * 1024


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
        self._patience = patience
        self._exchanges = Exchanges(uri, headers, patience, connections, self.locate, self.refuse)
        self._lock = threading.Lock()
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
        self._exchanges.forget_location()

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
        self._exchanges.close()

    def _stream_remote(self, start: int, stop: int, buffer: memoryview) -> Iterator[memoryview]:
        attempts = Attempts(self.uri, self._patience, self._exchanges.closed)
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
        with self._exchanges.exchange(headers) as answer:
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
            attempts = Attempts(self.uri, self._patience, self._exchanges.closed)
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
        with self._exchanges.exchange({"Range": wanted}) as answer:
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
