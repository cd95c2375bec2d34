"""A running loader is asked how far it is."""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import saved
from loader.beacon_client import GOOD, ask, free_port, progress
from loader.loader_process import finish, load, start
from sources.fault_server import FaultServer

from preheat.beacon import beacon
from preheat.bundle.store import Store
from preheat.progress import WINDOW, LogProgress

CHECKPOINT = saved({"state_dict": {"weight": torch.randn(1000, 1000)}})
LOG = logging.getLogger("preheat.loader")


def until(condition: Callable[[], Any], seconds: float = 20) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CHECKPOINT)
        yield running


def test_a_loader_says_how_far_it_is_until_it_ends(server: FaultServer, tmp_path: Path) -> None:
    port = free_port()
    server.always(stall_after=700_000)  # more than a buffer holds, less than a piece
    stages = [{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}]
    process = start(stages, tmp_path / "volume", PREHEAT_PROGRESS_PORT=str(port))
    try:
        told = until(lambda: (now := progress(port)) and now["bytesDone"] and now["idleSeconds"] > 0.3 and now)
    finally:
        process.send_signal(signal.SIGTERM)
        ended = finish(process, tmp_path / "volume")
    assert ended.code == 143
    assert set(told) == {"phase", "bytesDone", "bytesTotal", "bytesPerSecond", "idleSeconds"}
    assert told["phase"] == "transferring"
    assert 0 < told["bytesDone"] < told["bytesTotal"] <= len(CHECKPOINT)
    assert told["bytesPerSecond"] > 0
    assert progress(port) == {}


def test_a_port_that_is_taken_stops_no_loader(server: FaultServer, tmp_path: Path) -> None:
    stages = [{"http": {"url": server.origin + "/model.ckpt"}}, {"weightsOnly": {}}]
    with socket.create_server(("", 0)) as taken:
        ended = load(stages, tmp_path / "volume", PREHEAT_PROGRESS_PORT=str(taken.getsockname()[1]))
    assert ended.code == 0, ended.log
    assert "progress is not told" in ended.log


def test_a_port_that_is_none_is_named(tmp_path: Path) -> None:
    ended = load([{"http": {"url": "http://localhost/a"}}], tmp_path, PREHEAT_PROGRESS_PORT="70000")
    assert (ended.code, ended.message["reason"]) == (2, "InvalidPipeline")
    assert "PREHEAT_PROGRESS_PORT: '70000' is no port" in ended.message["message"]


def test_who_asks_oddly_harms_nobody() -> None:
    port = free_port()
    with beacon(port, lambda: {"phase": "reading"}):
        silent = socket.create_connection(("127.0.0.1", port))
        for request, status in (
            (b"POST /progress HTTP/1.1\r\nContent-Length: 9\r\n\r\n", 405),
            (b"GET /../etc/passwd HTTP/1.1\r\n\r\n", 404),
            (b"\0" * 4000, 405),
            (GOOD, 200),
        ):
            try:
                assert ask(port, request)[0] == status
            except ConnectionResetError:  # more than it reads of anybody
                assert len(request) > 2048
        silent.close()
        socket.create_connection(("127.0.0.1", port)).close()
        assert ask(port)[1] == b'{"phase": "reading"}'
    assert not [thread for thread in threading.enumerate() if thread.name == "preheat-beacon"]
    assert progress(port) == {}


def test_without_a_port_nobody_is_told() -> None:
    with beacon(None, dict):
        assert not [thread for thread in threading.enumerate() if thread.name == "preheat-beacon"]


def test_the_rate_is_that_of_the_last_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr("preheat.progress.time.monotonic", lambda: now)
    told = LogProgress(LOG)
    assert told.to_json()["phase"] == "reading"
    told.start(10_000)
    for rate, seconds in ((100, 20), (10, 20)):
        for _ in range(seconds):
            now += 1
            told.advance(rate)
    found = told.to_json()
    assert (found["bytesDone"], found["bytesPerSecond"], found["idleSeconds"]) == (2200, 10, 0)
    now += 2 * WINDOW
    assert told.to_json()["bytesPerSecond"] < 10
    assert told.to_json()["idleSeconds"] == 2 * WINDOW
    told.finish()
    assert told.to_json()["phase"] == "finishing"


def test_who_waits_for_another_maker_says_so(tmp_path: Path) -> None:
    store, digest, told = Store(tmp_path), "0" * 32, LogProgress(LOG)
    with store.make(digest, "pod-a"):

        def other() -> None:
            with store.make(digest, "pod-b", told.wait):
                pass

        thread = threading.Thread(target=other)
        thread.start()
        until(lambda: told.to_json()["phase"] == "waiting")
    thread.join(10)
    assert not thread.is_alive()
