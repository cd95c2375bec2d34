"""One request and its answer: where redirects lead, over connections that are kept when an answer was read whole."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from preheat import __version__
from preheat.blob import Patience
from preheat.errors import CheckpointError, CheckpointSourceError
from preheat.sources.attempts import Interrupted
from preheat.sources.http_answer import BUSY, PASSING, REDIRECTS, Headers, retry_after, words_for
from preheat.sources.http_connection import LONGEST_SOCKET_WAIT, Answer, Connection, Connections, Target
from preheat.sources.http_faults import faults
from preheat.sources.watchdog import WATCHDOG

#: Where a redirect or a signature led is asked again for this long, seconds; both expire, usually after an hour.
LOCATION_LIFETIME = 600.0

_MAX_REDIRECTS = 5
_MAX_ERROR_BODY = 16 * 1024
_MAY_HAVE_EXPIRED = frozenset({400, 401, 403, 404, 410})

#: Explains a status that trying again does not mend: status, its phrase, headers and body.
Refuse = Callable[[int, str, Headers, bytes], CheckpointError]


class Exchanges:
    """Asks for one object, from several threads at a time."""

    def __init__(
        self,
        uri: str,
        headers: Mapping[str, str],
        patience: Patience,
        connections: Connections | None,
        locate: Callable[[], str],
        refuse: Refuse,
    ) -> None:
        self.closed = threading.Event()
        self._uri = uri
        self._headers = dict(headers)
        self._patience = patience
        self._connections = connections or Connections()
        self._locate = locate
        self._refuse = refuse
        self._lock = threading.Lock()
        self._location: tuple[Target, Target, float] | None = None  # (first, last after redirects, when)
        self._busy: set[Connection] = set()

    def forget_location(self) -> None:
        """Locate the object anew for the next request."""
        self._location = None

    def close(self) -> None:
        """Close every connection; an exchange in another thread then ends in an error instead of going on."""
        self.closed.set()
        with self._lock:
            for connection in self._busy:
                connection.abort()
        self._connections.close()  # those of its folder too: a file that is still read opens new ones

    @contextmanager
    def exchange(self, headers: Mapping[str, str]) -> Iterator[Answer]:
        """Ask, follow redirects, and keep the connection if the answer was read to its end."""
        connection, answer = self._follow(headers)
        try:
            yield answer
        finally:
            self._give_back(connection, answer)

    def _give_back(self, connection: Connection, answer: Answer) -> None:
        with self._lock:
            self._busy.discard(connection)
            keep = answer.isclosed() and not answer.will_close and not self.closed.is_set()
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
                    f"{self._uri} redirects more than {_MAX_REDIRECTS} times", remedy="Check the server's redirects"
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
        target = Target.parse(self._locate())
        return target, target, False

    def _send(self, target: Target, first: Target, headers: Mapping[str, str]) -> tuple[Connection, Answer]:
        own = self._headers if target.origin == first.origin else {}  # they may carry credentials
        fixed = {"Accept-Encoding": "identity", "User-Agent": f"preheat/{__version__}"}
        while True:
            connection = self._connection(target)
            kept_alive = connection.used
            try:
                with faults(self._uri), WATCHDOG.limit(self._patience.timeout_seconds, connection.abort):
                    return connection, connection.get(target.path, {**fixed, **headers, **own})
            except BaseException as error:
                self._drop(connection)
                if not (kept_alive and isinstance(error, Interrupted) and error.at_once):
                    raise

    def _connection(self, target: Target) -> Connection:
        connection = self._connections.take(target, min(self._patience.timeout_seconds, LONGEST_SOCKET_WAIT))
        with self._lock:
            self._busy.add(connection)
        if self.closed.is_set():  # meanwhile: `close` may not have seen it
            connection.abort()
        return connection

    def _redirect(self, connection: Connection, answer: Answer, target: Target) -> Target:
        self._drop(connection, answer)
        return target.redirect(answer.headers["Location"])

    def _read_refusal(self, connection: Connection, answer: Answer) -> CheckpointError:
        """The error for an answer that is no success; raises Interrupted when it may pass."""
        try:
            with faults(self._uri), WATCHDOG.limit(self._patience.timeout_seconds, connection.abort):
                body = answer.read(_MAX_ERROR_BODY)
        finally:
            self._drop(connection, answer)
        if answer.status in PASSING:
            error = CheckpointSourceError(
                f"{self._uri}: the server answered {answer.status} {words_for(answer.status)}", remedy="Try again later"
            )
            raise Interrupted(error, retry_after(answer.headers, time.time()), busy=answer.status in BUSY)
        return self._refuse(answer.status, words_for(answer.status), answer.headers, body)
