"""The container beside a training says what became of everything: while it runs, at its end, and when it is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from loader.beacon_client import ask, free_port
from uploading.checkpoints_to_send import save
from uploading.put_server import PutServer

from preheat.errors import AccessDeniedError
from preheat.termination_message import MAX_MESSAGE, leave_message
from preheat.uploading.account import LISTED, Account
from preheat.uploading.sidecar import Telling

NAMES = ("net_cp=E1_U10_S100", "net_cp=E2_U20_S200")
UID = "3f0c6f1e-uid"


@pytest.fixture
def server() -> Iterator[PutServer]:
    with PutServer().running() as running:
        yield running


class Sidecar:
    """The process as its pod starts it."""

    def __init__(self, server: PutServer, folder: Path) -> None:
        self.port, self._message = free_port(), folder / "message"
        told = {"path": str(folder / "output"), "to": {"http": {"url": f"{server.url}/runs/"}}, "maxRetries": 0}
        environment = {
            "PREHEAT_UPLOAD": json.dumps(told),
            "PREHEAT_UPLOADS_PORT": str(self.port),
            "PREHEAT_POD_UID": UID,
            "PREHEAT_TERMINATION_LOG": str(self._message),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "preheat.uploading.sidecar"],
            env={**os.environ, **environment},
            stderr=subprocess.PIPE,
        )

    def asked(self, path: str = f"/uploads/{UID}") -> tuple[int, Any]:
        status, body = ask(self.port, f"GET {path} HTTP/1.1\r\n\r\n".encode())
        return status, json.loads(body or b"null")

    def tells(self, condition: Callable[[Any], Any]) -> dict[str, Any]:
        deadline = time.monotonic() + 90
        while True:
            try:
                status, told = self.asked()
            except ConnectionRefusedError:
                status, told = 0, {}
            if status == 200 and condition(told):
                return dict(told)
            assert self.process.poll() is None, self.process.communicate()
            assert time.monotonic() < deadline, told
            time.sleep(0.02)

    @property
    def message(self) -> dict[str, Any]:
        return dict(json.loads(self._message.read_text()))

    def end(self, by: signal.Signals) -> int:
        self.process.send_signal(by)
        self.process.communicate(timeout=90)
        return self.process.returncode


@pytest.fixture
def sidecar(server: PutServer, tmp_path: Path) -> Iterator[Sidecar]:
    save(tmp_path / "output", NAMES[0])
    server.next(status=403)
    found = Sidecar(server, tmp_path)
    yield found
    found.process.kill()
    found.process.communicate()


def test_who_knows_the_pod_is_told_what_waits_and_why_and_at_last_that_all_is_there(
    sidecar: Sidecar, server: PutServer, tmp_path: Path
) -> None:
    failing = sidecar.tells(lambda told: told.get("failures"))
    assert (failing["outcome"], failing["reason"], failing["waiting"]) == ("failed", "AccessDenied", [NAMES[0]])
    assert sidecar.message == failing, "of a container that is killed this is all that is known"
    for path in ("/uploads/", "/uploads/another", "/progress"):
        assert sidecar.asked(path) == (404, None)
    save(tmp_path / "output", NAMES[1])
    assert sidecar.end(signal.SIGTERM) == 0
    told = sidecar.message
    assert (told["outcome"], told["uploaded"], told["last"], told["waiting"]) == ("uploaded", 2, NAMES[1], [])
    assert abs(time.time() - datetime.fromisoformat(told["lastTime"]).timestamp()) < 60
    assert "reason" not in told
    assert len(server.files) == 6


def test_what_was_not_sent_when_it_was_killed_is_in_the_message(sidecar: Sidecar) -> None:
    sidecar.tells(lambda told: told.get("failures"))
    sidecar.end(signal.SIGKILL)
    assert (sidecar.message["outcome"], sidecar.message["waiting"]) == ("failed", [NAMES[0]])


def test_a_message_fits_whatever_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "message"
    monkeypatch.setenv("PREHEAT_TERMINATION_LOG", str(path))
    account = Account("s3://" + "b/" * 3000, waiting=dict.fromkeys(f"检查点-{n}-" + "深" * 400 for n in range(5000)))
    account.failed(AccessDeniedError("no " * 3000, remedy="ask " * 3000))
    account.sent("é" * 5000, 1, 2**60)
    leave_message(account.brief())
    text = path.read_text()
    assert len(text.encode()) <= MAX_MESSAGE
    told = json.loads(text)
    assert len(told["waiting"]) + told["moreWaiting"] == 5000
    assert (told["reason"], told["uploaded"], told["bytes"]) == ("AccessDenied", 1, 2**60)
    assert text.index('"failures"') < text.index('"target"'), "what counts is not what the kubelet cuts"
    assert len(account.brief()["waiting"]) == LISTED


def test_what_it_tells_has_no_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREHEAT_TERMINATION_LOG", str(tmp_path / "message"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a-secret-of-somebody")
    telling, account = Telling(), Account("s3://b/")
    account.failed(AccessDeniedError("a-secret-of-somebody is wrong"))
    telling(account)
    assert telling.last["message"] == "*** is wrong"
    assert "a-secret" not in (tmp_path / "message").read_text()
