"""Reading through TLS: as without it, whatever happens on the way."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sources import tls
from sources.fault_server import FaultServer

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointError, CheckpointSourceError, CheckpointTimeoutError, TruncatedError
from preheat.sources import attempts
from preheat.sources.http import HTTPSource

CONTENT = os.urandom(700_001)
SIZE = len(CONTENT)


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tls.self_signed(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="module")
def running(certificate: tuple[str, str]) -> Iterator[FaultServer]:
    with tls.SecureServer(certificate).running() as server:
        server.serve("/model", CONTENT)
        yield server


@pytest.fixture
def server(running: FaultServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultServer]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    yield running
    running.always()


@pytest.fixture
def opened(certificate: tuple[str, str]) -> Iterator[Callable[..., Blob]]:
    blobs = []

    def of(origin: str, retries: int = 1, timeout: float = 5) -> Blob:
        source = HTTPSource(f"{origin}/model", ca_bundle=Path(certificate[0]).read_text())
        blobs.append(source.open(Patience(retries, timeout)))
        return blobs[-1]

    yield of
    for blob in blobs:
        blob.close()


def collect(blob: Blob, start: int, stop: int, buffer: int) -> bytes:
    return b"".join(bytes(view) for view in blob.stream(start, stop, memoryview(bytearray(buffer))))


def test_any_range_is_read_exactly_into_buffers_of_any_size(server: FaultServer, opened: Callable[..., Blob]) -> None:
    blob = opened(server.origin)

    @settings(max_examples=30)
    @given(st.integers(0, SIZE), st.integers(0, SIZE), st.sampled_from([100, 16_384, 16_385, 65_536, 1 << 20]))
    def exact(one: int, other: int, buffer: int) -> None:
        start, stop = min(one, other), max(one, other)
        stop = min(stop, start + 1000 * buffer)
        assert collect(blob, start, stop, buffer) == CONTENT[start:stop]

    exact()


@pytest.mark.parametrize("fault", [{"cut_after": 100_000}, {"drop": True}, {"status": 503}], ids=str)
def test_a_passing_fault_is_retried(server: FaultServer, opened: Callable[..., Blob], fault: dict[str, object]) -> None:
    blob = opened(server.origin, retries=2)
    server.next(count=2, **fault)
    assert collect(blob, 0, 600_000, 65_536) == CONTENT[:600_000]


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"cut_after": 1000}, TruncatedError),
        ({"drop": True}, CheckpointSourceError),
        ({"stall_after": 100}, CheckpointTimeoutError),
        ({"drip": 0.01}, CheckpointTimeoutError),
    ],
    ids=str,
)
def test_a_lasting_fault_is_named(
    server: FaultServer, opened: Callable[..., Blob], fault: dict[str, object], error: type[CheckpointError]
) -> None:
    blob = opened(server.origin, timeout=0.6)
    server.always(**fault)
    with pytest.raises(error):
        blob.read(0, 300_000)


def test_a_byte_that_is_changed_on_the_way_is_noticed(server: FaultServer, opened: Callable[..., Blob]) -> None:
    with relay(server, lambda passed, data: _flipped(data) if passed > 200_000 else data) as origin:
        blob = opened(origin)
        with pytest.raises(CheckpointSourceError, match="cannot be reached"):
            blob.read(0, SIZE)


def test_a_connection_that_is_cut_within_a_record_is_taken_up_again(
    server: FaultServer, opened: Callable[..., Blob]
) -> None:
    cuts = iter([True, True])

    def cut(passed: int, data: bytes) -> bytes:
        return b"" if passed > 300_000 and next(cuts, False) else data

    with relay(server, cut) as origin:
        blob = opened(origin, retries=3)
        assert collect(blob, 0, SIZE, 65_536) == CONTENT


def test_a_server_that_does_not_shake_hands_is_not_waited_for_longer_than_allowed(
    opened: Callable[..., Blob],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(CheckpointTimeoutError):
        opened(f"https://127.0.0.1:{silent.getsockname()[1]}", retries=0, timeout=0.3)


def test_a_server_without_tls_is_named(opened: Callable[..., Blob]) -> None:
    with FaultServer().running() as plain, pytest.raises(CheckpointSourceError, match="cannot be reached"):
        opened(plain.origin.replace("http:", "https:"), retries=0)


@contextmanager
def relay(server: FaultServer, change: Callable[[int, bytes], bytes]) -> Iterator[str]:
    """An origin whose answers pass through `change(bytes so far, data)`; what comes back empty ends the connection."""
    address = server.origin.removeprefix("https://").split(":")
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        with suppress(OSError):
            while True:
                client, _ = listener.accept()
                upstream = socket.create_connection((address[0], int(address[1])))
                threading.Thread(target=pump, args=(client, upstream, lambda _, data: data), daemon=True).start()
                threading.Thread(target=pump, args=(upstream, client, change), daemon=True).start()

    def pump(one: socket.socket, other: socket.socket, change: Callable[[int, bytes], bytes]) -> None:
        passed = 0
        with suppress(OSError):
            while data := change(passed, one.recv(10_000)):
                passed += len(data)
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()


def _flipped(data: bytes) -> bytes:
    return data[:-1] + bytes([data[-1] ^ 1]) if data else data
