"""The operator's processes as real ones, quickly: forked from a process that has imported everything once.

A test may make them less patient than they are; what they do stays the same.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_fork = multiprocessing.get_context("forkserver")
_fork.set_forkserver_preload(["preheat_operator.controller", "preheat_operator.webhook", "pytest"])


@dataclass(frozen=True)
class Haste:
    """Seconds that the processes wait at most, where a test cannot wait as long as they do."""

    silence: float = 0  # of a watch until it counts as dead
    resync: float = 0
    certificate: float = 0  # between two looks at it
    backoffs: tuple[float, ...] = ()  # of kopf's requests


class Operator:
    """One process, `controller` or `webhook`, and what it left in its log."""

    def __init__(self, role: str, kubeconfig: Path, log: Path, haste: Haste = Haste(), **settings: str) -> None:
        self.role, self.log = role, log
        log.touch()
        self.health, self.port = free_port(), free_port()
        environment = {
            "KUBECONFIG": str(kubeconfig),
            "PREHEAT_NAMESPACE": "default",
            "PREHEAT_LOADER_IMAGE": "loader:1",
            "PREHEAT_PORT": str(self.port),
            "PREHEAT_HEALTH_PORT": str(self.health),
            **{f"PREHEAT_{name.upper()}": value for name, value in settings.items()},
        }
        self.process = _fork.Process(target=_run, args=(role, environment, str(log), haste), daemon=True)
        self.process.start()

    def get(self, path: str) -> str:
        """The answer of its health port, or why there is none."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.health}{path}", timeout=5) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as error:
            return str(error.read().decode())
        except OSError as error:
            return str(error)

    def ready(self) -> bool:
        assert self.process.is_alive(), self.said()
        return self.get("/readyz") == "ok"

    def said(self) -> str:
        return self.log.read_text()

    def send(self, what: signal.Signals) -> None:
        assert self.process.pid
        os.kill(self.process.pid, what)

    def end(self, how: signal.Signals = signal.SIGKILL, seconds: float = 20) -> int | None:
        """Its exit code; None when it does not end in time."""
        if self.process.is_alive():
            self.send(how)
        self.process.join(seconds)
        return self.process.exitcode


@contextmanager
def running(role: str, kubeconfig: Path, log: Path, haste: Haste = Haste(), **settings: str) -> Iterator[Operator]:
    """A process that is ready, and is gone afterwards."""
    operator = Operator(role, kubeconfig, log, haste, **settings)
    try:
        eventually(operator.ready)
        yield operator
    finally:
        operator.end()


def eventually(condition: Callable[[], Any], seconds: float = 30, what: Callable[[], object] = str) -> Any:
    """What the condition gives as soon as it holds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not within {seconds} s {what()}"
        time.sleep(0.05)
    return found


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _run(role: str, environment: Mapping[str, str], log: str, haste: Haste) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.environ.update(environment)
    _hurry(haste)
    from preheat_operator.__main__ import app

    app([role])


def _hurry(haste: Haste) -> None:
    from functools import partial

    from preheat_operator import controller, serving_certificate, webhook
    from preheat_operator.cache import PipelineCache
    from preheat_operator.follower import Pace
    from preheat_operator.labelled_pods import LabelledPods

    if haste.silence:
        pace = Pace(silence=haste.silence)
        webhook.PipelineCache = partial(PipelineCache, pace=pace)  # type: ignore[assignment, misc]
        controller.LabelledPods = partial(LabelledPods, pace=pace)  # type: ignore[assignment, misc]
    if haste.certificate:
        serving_certificate.CHECK_SECONDS = haste.certificate
    if haste.resync:
        controller.Controller.resync.__defaults__ = (haste.resync, (1,))
    patient = controller.watching

    def hasty() -> Any:
        settings = patient()
        if haste.silence:
            settings.watching.inactivity_timeout = haste.silence
        if haste.backoffs:
            settings.networking.error_backoffs = haste.backoffs
        return settings

    controller.watching = hasty
