import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from preheat.blob import Patience
from preheat.errors import CheckpointSourceError
from preheat.sources.http_blob import HttpBlob


@contextmanager
def dripping(beginning: bytes) -> Iterator[str]:
    """A server that answers with `beginning`, and then a letter from time to time for ever."""
    stopping = threading.Event()

    def drip(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.sendall(beginning)
            while not stopping.wait(0.02):
                connection.sendall(b"x")

    def accept(listener: socket.socket) -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=drip, args=(listener.accept()[0],), daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listening = threading.Thread(target=accept, args=(listener,), daemon=True)
        listening.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/x"
        finally:
            stopping.set()
            listener.shutdown(socket.SHUT_RDWR)
            listening.join()


@pytest.mark.parametrize(
    "beginning",
    [b"HTTP/1.1 206 Fine\r\nA: ", b"HTTP/1.1 404 None\r\nContent-Length: 9999\r\n\r\n"],
    ids=["header", "refusal"],
)
def test_an_answer_that_drips_ends_with_the_patience(beginning: bytes) -> None:
    began = time.monotonic()
    with dripping(beginning) as url, pytest.raises(CheckpointSourceError):
        HttpBlob(url, uri=url, headers={}, patience=Patience(2, 0.5))
    assert time.monotonic() - began < 10
