"""TLS over a socket that is read in large pieces.

Python's own SSL sockets ask the kernel twice for each record of at most 16 KiB, and take the interpreter's lock in
between: with several connections most of the time goes into handing that lock over. Here the kernel gives what has
arrived, many records at once, and OpenSSL takes them out of memory.
"""

from __future__ import annotations

import ssl
from http.client import HTTPConnection
from socket import socket
from typing import Any, cast

#: Bytes that one call of the kernel may give: some records, and little beside the memory of a thread's own buffer.
_ARRIVING = 64 * 1024


class TLSSocket(socket):
    """A connected socket whose bytes pass through TLS; what goes for timeouts and `shutdown` goes on as before."""

    def __init__(self, connected: socket, context: ssl.SSLContext, host: str) -> None:
        timeout = connected.gettimeout()
        super().__init__(connected.family, connected.type, connected.proto, fileno=connected.detach())
        self.settimeout(timeout)
        self._arrived, self._leaving = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._leaving, server_hostname=host)
        self._chunk = memoryview(bytearray(_ARRIVING))
        try:
            self._shake_hands()
        except BaseException:
            self.close()
            raise

    def recv_into(self, buffer: Any, nbytes: int = 0, flags: int = 0) -> int:
        """Decrypt into `buffer` what has arrived, and wait only for the first of it; 0 when the peer has ended."""
        view = memoryview(buffer).cast("B")
        view = view[:nbytes] if nbytes else view
        filled = 0
        while filled < len(view):
            try:
                count = cast("int", self._tls.read(len(view) - filled, cast("bytearray", view[filled:])))
            except ssl.SSLWantReadError:
                if filled:
                    break
                self._arrive()
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                break  # lengths are compared by who reads
            else:
                if not count:
                    break
                filled += count
        self._leave()
        return filled

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Encrypt and send."""
        self._tls.write(data)
        self._leave()

    def _shake_hands(self) -> None:
        while True:
            try:
                self._tls.do_handshake()
                return
            except ssl.SSLWantReadError:
                self._leave()
                self._arrive()
            finally:
                self._leave()  # the end of it, or an alert that says why there is none

    def _arrive(self) -> None:
        if count := super().recv_into(self._chunk):
            self._arrived.write(self._chunk[:count])
        else:
            self._arrived.write_eof()

    def _leave(self) -> None:
        if self._leaving.pending:
            super().sendall(self._leaving.read())


class TLSConnection(HTTPConnection):
    """An HTTP connection over such a socket, after the tunnel through a proxy if there is one."""

    default_port = 443

    def __init__(self, host: str, port: int, timeout: float, context: ssl.SSLContext) -> None:
        super().__init__(host, port, timeout=timeout)
        self._context = context

    def connect(self) -> None:
        """Connect, and agree on a key with the host that was asked for; raises ssl.SSLError."""
        super().connect()
        self.sock = TLSSocket(self.sock, self._context, self._tunnel_host or self.host)  # type: ignore[attr-defined]
