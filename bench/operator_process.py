"""The operator's processes as they run in a cluster, and what they take by the kernel's own accounting."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from api_server import ApiServer
from installation import NAMESPACE
from servers import free_port

from cluster.commands import wait_until

TICKS = os.sysconf("SC_CLK_TCK")


class OperatorProcess:
    """A process that tells of itself on a health port."""

    def __init__(self, command: Sequence[object], environment: Mapping[str, object], health: int, log: Path) -> None:
        self.health = health
        self.log = log
        self.began = time.monotonic()
        with log.open("wb") as output:
            words, settings = list(map(str, command)), {key: str(value) for key, value in environment.items()}
            self.popen = subprocess.Popen(words, env={**os.environ, **settings}, stdout=output, stderr=output)

    def ready(self) -> bool:
        """Whether it says that it works."""
        if self.popen.poll() is not None:
            raise RuntimeError(f"it has ended:\n{self.log.read_text()[-2000:]}")
        try:
            return bool(self.get("/readyz"))
        except OSError:
            return False

    def get(self, path: str) -> str:
        """A page of its health port."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.health}{path}", timeout=10) as answer:
            text: str = answer.read().decode()
            return text

    def metric(self, name: str) -> float:
        """The sum of a metric's series."""
        return sum(map(float, re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics"), re.MULTILINE)))

    @property
    def processor(self) -> float:
        """Seconds that its threads have run."""
        fields = Path(f"/proc/{self.popen.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    @property
    def resident(self) -> float:
        """MiB now."""
        return self._memory("VmRSS")

    @property
    def peak(self) -> float:
        """MiB at most."""
        return self._memory("VmHWM")

    def _memory(self, key: str) -> float:
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
        assert found
        return int(found[1]) / 1024

    def end(self) -> None:
        """Tell it to stop, and wait."""
        self.popen.terminate()
        self.popen.wait(60)


@contextmanager
def operator(api: ApiServer, verb: str, name: str = "", **settings: object) -> Iterator[OperatorProcess]:
    """`python -m preheat_operator VERB`, from its start until the block ends; it may not be ready yet."""
    with process(api, [sys.executable, "-m", "preheat_operator", verb], name or verb, **settings) as started:
        yield started


@contextmanager
def process(api: ApiServer, command: Sequence[object], name: str, **settings: object) -> Iterator[OperatorProcess]:
    """A process with the operator's environment, from its start until the block ends."""
    health = free_port()
    environment = {
        "KUBECONFIG": api.kubeconfig,
        "PREHEAT_NAMESPACE": NAMESPACE,
        "PREHEAT_LOADER_IMAGE": "registry.example.org/preheat-loader:1",
        "PREHEAT_HEALTH_PORT": health,
        **settings,
    }
    started = OperatorProcess(command, environment, health, api.folder / f"{name}.log")
    try:
        yield started
    finally:
        if started.popen.poll() is None:
            started.end()


def until_ready(started: OperatorProcess, seconds: float = 120) -> float:
    """Wait until it says that it works; returns the seconds since its start."""
    wait_until("the process is ready", started.ready, seconds, interval=0.02)
    return time.monotonic() - started.began
