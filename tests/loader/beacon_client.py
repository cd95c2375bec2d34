"""Who asks a loader how far it is."""

from __future__ import annotations

import json
import random
import socket
from contextlib import suppress
from typing import Any

GOOD = b"GET /progress HTTP/1.1\r\nHost: 10.0.0.1\r\nConnection: close\r\n\r\n"


def free_port() -> int:
    """A port that nobody has now, and that the system gives to no client before it is used."""
    while True:
        port = random.randrange(20_000, 30_000)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


def ask(port: int, request: bytes = GOOD, host: str = "127.0.0.1") -> tuple[int, bytes]:
    """Status and body of the answer."""
    with socket.create_connection((host, port), timeout=5) as connection:
        connection.sendall(request)
        answer = b""
        while received := connection.recv(4096):
            answer += received
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def progress(port: int) -> dict[str, Any]:
    """What the loader tells; nothing while it does not listen."""
    try:
        status, body = ask(port)
    except ConnectionRefusedError:
        return {}
    assert status == 200
    return dict(json.loads(body))
