"""Tells whoever asks the pod how far it is: one small document over HTTP, and nothing else.

Loaders and uploads know no API and hold no credential for one, so they are asked. Anybody who reaches the pod can ask a
loader: its answer has numbers and one word, no names. An upload tells names, to those who know its pod's uid: who may
read the pod. One thread answers one after the other, each within a second and after a pause, so that asking costs the
transfer nothing.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hmac import compare_digest
from typing import Any

from preheat.errors import CheckpointConfigError

PATH, UPLOADS_PATH = "/progress", "/uploads/"
PATIENCE = 1.0  # seconds for a whole request, and for its answer
PAUSE = 0.02  # seconds between two
REQUEST_LIMIT = 2048  # bytes

log = logging.getLogger("preheat.beacon")


@contextmanager
def beacon(port: int | None, tell: Callable[[], Mapping[str, Any]], path: str = PATH) -> Iterator[None]:
    """Answer on `port` with what `tell` returns, for as long as the block runs; without a port nobody is told.

    A port that another has is no reason not to work.
    """
    listener = _listening(port) if port else None
    if listener is None:
        yield
        return
    end, ended = socket.socketpair()
    about = listener, ended, tell, path
    thread = threading.Thread(target=_answer_all, args=about, name="preheat-beacon", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.close()
        thread.join(2 * PATIENCE)
        for each in (listener, ended):
            each.close()


def port_in(environment: Mapping[str, str], name: str) -> int | None:
    """The port that a variable names, if it is there; raises CheckpointConfigError when it names none."""
    text = environment.get(name)
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65536:
        raise CheckpointConfigError(f"{name}: {text!r:.40} is no port", remedy="It is set by the operator")
    return int(text)


def _listening(port: int) -> socket.socket | None:
    with suppress(OSError, ValueError):  # a machine without IPv6, or one that has it switched off
        return socket.create_server(("", port), family=socket.AF_INET6, backlog=8, dualstack_ipv6=True)
    try:
        return socket.create_server(("", port), backlog=8)
    except OSError as error:
        log.info("progress is not told: port %d: %s", port, error.strerror)
        return None


def _answer_all(
    listener: socket.socket, ended: socket.socket, tell: Callable[[], Mapping[str, Any]], path: str
) -> None:
    while ended not in select.select([listener, ended], [], [])[0]:
        with suppress(OSError):  # who asks may hang up at any time
            connection, _ = listener.accept()
            with connection:
                _answer(connection, tell, path)
        if select.select([ended], [], [], PAUSE)[0]:
            return


def _answer(connection: socket.socket, tell: Callable[[], Mapping[str, Any]], path: str) -> None:
    request, deadline = b"", time.monotonic() + PATIENCE
    while b"\r\n\r\n" not in request and len(request) < REQUEST_LIMIT:
        connection.settimeout(max(deadline - time.monotonic(), 0.001))
        received = connection.recv(REQUEST_LIMIT)
        if not received:
            return
        request += received
    method, _, rest = request.partition(b" ")
    if method != b"GET":
        status, body = "405 Method Not Allowed", b""
    elif not compare_digest(rest.partition(b" ")[0], path.encode()):
        status, body = "404 Not Found", b""
    else:
        status, body = "200 OK", json.dumps(tell()).encode()
    head = f"HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\nConnection: close"
    connection.settimeout(PATIENCE)
    connection.sendall(head.encode() + b"\r\n\r\n" + body)
    connection.shutdown(socket.SHUT_WR)
