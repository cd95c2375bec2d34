"""One connection to an HTTP server: proxies, TLS, and where Preheat refuses to go.

Refused are other schemes than http and https, credentials in a URL, the step from https to http, and the addresses at
which clouds hand out credentials. The check is made on the connected socket: no DNS name can hide one.
"""

from __future__ import annotations

import os
import ssl
import struct
import threading
from base64 import b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.client import HTTPConnection, HTTPResponse
from ipaddress import ip_address, ip_network
from socket import SHUT_RDWR, SO_RCVTIMEO, SOL_SOCKET, socket
from string import punctuation
from typing import Any, Protocol
from urllib.parse import quote, unquote, urljoin, urlsplit

from preheat.errors import CheckpointConfigError, CheckpointSourceError
from preheat.sources.tls import TLSConnection

#: Seconds that one call of a socket may take, however patient the user is.
LONGEST_SOCKET_WAIT = 30.0

#: Where clouds hand out credentials and machine configurations, outside the link-local networks: Amazon's own IPv6
#: services (instance metadata, Pod Identity), Google's and Oracle's metadata by IPv6, Azure's wire server, Alibaba's.
_METADATA = tuple(
    map(ip_network, ("fd00:ec2::/32", "fd20:ce::254", "fd00:c1::a9fe:a9fe", "168.63.129.16", "100.100.100.200"))
)


@dataclass(frozen=True)
class Target:
    """Where a request goes. `path` carries the query, which may be a signature: it belongs in no message."""

    scheme: str
    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Target:
        """The target of a URL; raises CheckpointSourceError for one that Preheat does not follow."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            raise CheckpointSourceError("the URL cannot be parsed", remedy="Check the URL") from None
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise CheckpointSourceError(
                f"Preheat does not follow {parts.scheme or 'relative'} URLs, only http and https"
            )
        if "@" in parts.netloc:
            raise CheckpointSourceError(
                f"the URL of {parts.hostname} holds credentials", remedy="Use secretRef instead"
            )
        path = quote(parts.path or "/", safe="/%:=&~+!$,;'@()*")
        path += f"?{quote(parts.query, safe=punctuation)}" if parts.query else ""  # as it is, but for what is no ASCII
        return cls(parts.scheme, parts.hostname, port or (443 if parts.scheme == "https" else 80), path)

    @property
    def origin(self) -> str:
        """Scheme, host and port: who may see this target's credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    def redirect(self, location: str) -> Target:
        """Where a `Location` header leads from here; raises CheckpointSourceError when that is no place to go."""
        try:
            url = urljoin(self.origin + self.path, location)
        except ValueError:
            raise CheckpointSourceError(
                f"{self.host} redirects to something that is no URL", remedy="Check the server's redirects"
            ) from None
        found = Target.parse(url)
        if self.scheme == "https" and found.scheme == "http":
            raise CheckpointSourceError(
                f"{self.host} redirects from https to http at {found.host}, which would drop the encryption",
                remedy="Use the URL that the redirect should lead to",
            )
        return found


class Body(Protocol):
    """What is sent with a request."""

    def send(self, to: socket) -> None:
        """Write all of it."""
        ...


class Answer(HTTPResponse):
    """A response whose body arrives in pieces as they come.

    Python's timeout asks the kernel whether there is anything before each read. While the body arrives, the kernel's
    own timeout, which `Connection` has set, takes its place: half as many calls.
    """

    def __init__(self, sock: socket, *args: Any, **options: Any) -> None:
        super().__init__(sock, *args, **options)
        self._socket = sock
        self._timeout = sock.gettimeout()

    def receive(self, view: memoryview) -> int:
        """Fill part of `view` with what one read of the socket gives, and return its bytes; 0 at the body's end."""
        # readinto() would wait until the view is full, and a server that drips a byte a second would hold it for days.
        if not self.length:
            return 0
        if self._socket.gettimeout() is not None:
            self._socket.settimeout(None)
        count: int | None = self.fp.readinto1(view[: self.length])
        if count is None:
            raise TimeoutError
        self.length -= count
        if not self.length:
            self._socket.settimeout(self._timeout)
            self.read()  # of nothing: marks the connection as free for its next request
        return count


class Connection:
    """A kept-alive connection to one origin, through a proxy where the environment names one."""

    def __init__(self, target: Target, timeout: float, authorities: str | None) -> None:
        self.origin = target.origin
        self.used = False
        proxy = _proxy(target)
        self._prefix = target.origin if proxy and target.scheme == "http" else ""
        self._extra = _proxy_authorization(proxy) if self._prefix and proxy else {}
        self._http = _open(target, proxy, timeout, authorities)
        self._http.response_class = Answer
        self._longest_wait = struct.pack("ll", int(timeout), int(timeout % 1 * 1e6))
        self._aborted = False
        self._forbidden = target.host if proxy else None

    def get(self, path: str, headers: Mapping[str, str]) -> Answer:
        """Send one GET and return the response, headers read."""
        return self.ask("GET", path, headers)

    def ask(self, method: str, path: str, headers: Mapping[str, str], body: Body | None = None) -> Answer:
        """Send a request, with the body whose length the headers say, and return the response, headers read."""
        if self._http.sock is None:
            if self._forbidden:
                _refuse_metadata(self._forbidden)
            self._http.connect()
            if self._http.sock is not None:
                _refuse_metadata(self._http.sock.getpeername()[0])
                self._http.sock.setsockopt(SOL_SOCKET, SO_RCVTIMEO, self._longest_wait)
        if self._aborted:
            raise ConnectionResetError("the connection was ended before it was used")
        self._http.request(method, self._prefix + path, headers={**headers, **self._extra})
        if body and self._http.sock is not None:
            # Who refuses a request may close before its body has arrived; the refusal is what counts.
            with suppress(BrokenPipeError, ConnectionResetError):
                body.send(self._http.sock)
        self.used = True
        answer = self._http.getresponse()
        assert isinstance(answer, Answer)  # noqa: S101 - set as response_class above
        return answer

    def abort(self) -> None:
        """End what another thread waits for on this connection, or is about to; that thread closes it."""
        self._aborted = True
        with suppress(OSError, AttributeError):  # not connected yet, or not any more
            self._http.sock.shutdown(SHUT_RDWR)

    def close(self) -> None:
        """Close the socket."""
        self._http.close()


class Connections:
    """Idle connections, kept for the next request; the files of one folder share them. Safe in several threads."""

    def __init__(self, authorities: str | None = None) -> None:
        self._authorities = authorities  # CA certificates as PEM text; None: the system's
        self._lock = threading.Lock()
        self._idle: list[Connection] = []

    def take(self, target: Target, timeout: float) -> Connection:
        """An idle connection to the target's origin, or a new one."""
        with self._lock:
            at = next((at for at, kept in enumerate(self._idle) if kept.origin == target.origin), None)
            if at is not None:
                return self._idle.pop(at)
        return Connection(target, timeout, self._authorities)

    def give(self, connection: Connection) -> None:
        """Keep a connection whose answer was read to its end."""
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Close what is idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


def _open(target: Target, proxy: Target | None, timeout: float, authorities: str | None) -> HTTPConnection:
    peer = proxy or target
    if target.scheme == "http":
        return HTTPConnection(peer.host, peer.port, timeout=timeout)
    connection = TLSConnection(peer.host, peer.port, timeout, _tls(authorities))
    if proxy:
        connection.set_tunnel(target.host, target.port, headers=_proxy_authorization(proxy))
    return connection


@cache
def _tls(authorities: str | None) -> ssl.SSLContext:
    # What stands between certificates may be in any language; OpenSSL wants ASCII.
    text = authorities.encode("ascii", "ignore").decode() if authorities else None
    try:
        return ssl.create_default_context(cadata=text)  # without any: SSL_CERT_FILE, then the system's
    except ssl.SSLError as error:
        raise CheckpointConfigError(
            f"the certificates of caBundle cannot be read: {error.reason or error}",
            remedy="Give PEM text, each certificate from -----BEGIN to -----END",
        ) from None


def _refuse_metadata(address: str) -> None:
    try:
        parsed = ip_address(address.partition("%")[0])
    except ValueError:
        return  # a name; the proxy resolves it
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    if mapped.is_link_local or any(mapped in network for network in _METADATA):
        raise CheckpointSourceError(
            f"Preheat does not connect to {address}, a link-local or cloud metadata address",
            remedy="Check the URL and where it redirects",
        )


def _proxy(target: Target) -> Target | None:
    if not any(name.lower().endswith("_proxy") for name in os.environ):
        return None  # the usual case, without the import
    from urllib.request import getproxies, proxy_bypass

    url = getproxies().get(target.scheme)
    if not url or proxy_bypass(target.host):
        return None
    parts = urlsplit(url if "://" in url else f"http://{url}")
    port = None
    with suppress(ValueError):  # would quote what stands there, perhaps half a password
        port = parts.port or 80
    if parts.scheme != "http" or not parts.hostname or not port:
        raise CheckpointConfigError(
            f"the {target.scheme}_proxy of the environment is not an http:// URL", remedy="Set it to http://host:port"
        )
    return Target("http", parts.hostname, port, parts.netloc)


def _proxy_authorization(proxy: Target) -> dict[str, str]:
    userinfo, at, _ = proxy.path.rpartition("@")
    if not at:
        return {}
    return {"Proxy-Authorization": "Basic " + b64encode(unquote(userinfo).encode()).decode()}
