"""A TCP relay that counts: bytes that came back from a server, and when the first request went out."""

from __future__ import annotations

import selectors
import socket
import threading
import time
from urllib.parse import urlsplit


class Meter:
    """Relays connections on a loopback port to a server; use as a context manager."""

    def __init__(self, server: str) -> None:
        parts = urlsplit(server)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.reset()

    def reset(self) -> None:
        """Begin a new count."""
        self.received = 0  # bytes from the server, headers included
        self.first_request: float | None = None  # time.time()

    def __enter__(self) -> Meter:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._relay, args=(client,), daemon=True).start()

    def _relay(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server, selectors.DefaultSelector() as ready:
            ready.register(client, selectors.EVENT_READ, server)
            ready.register(server, selectors.EVENT_READ, client)
            while True:
                for key, _ in ready.select():
                    source = key.fileobj
                    assert isinstance(source, socket.socket)
                    try:
                        chunk = source.recv(1 << 18)
                        if not chunk:
                            return
                        key.data.sendall(chunk)
                    except OSError:
                        return
                    self._count(source is server, len(chunk))

    def _count(self, from_server: bool, size: int) -> None:
        if from_server:
            self.received += size
        elif self.first_request is None:
            self.first_request = time.time()
