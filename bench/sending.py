"""Requests by the thousand, sent by a process of its own: the one that measures is not the one that is measured."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from processes import measure
from programs import program

Request = Mapping[str, Any]  # method, path, type, body


@dataclass(frozen=True)
class Sent:
    """What became of some requests."""

    seconds: Sequence[float]  # of each, in order
    failures: Mapping[str, int]  # what was said, and how often
    elapsed: float
    processor: float  # seconds of the sender

    @property
    def failed(self) -> int:
        """How many have failed."""
        return sum(self.failures.values())

    @property
    def p50(self) -> float:
        """The median, milliseconds."""
        return 1000 * median(self.seconds)

    @property
    def p99(self) -> float:
        """What one of a hundred exceeds, milliseconds."""
        return 1000 * quantiles(self.seconds, n=100, method="inclusive")[-1]

    @property
    def slowest(self) -> float:
        """The longest, milliseconds."""
        return 1000 * max(self.seconds)


@dataclass(frozen=True)
class Server:
    """Whom to ask, and as whom."""

    url: str
    authority: Path
    name: str = ""  # in its certificate, where it is not that of the URL
    token: str = ""


def send(
    server: Server,
    requests: Iterable[Request],
    scratch: Path,
    *,
    at_once: int = 1,
    rate: float = 0,
    expect: str = "",
) -> Sent:
    """Send them, `at_once` or `rate` a second; an answer without the text `expect` has failed."""
    file = scratch / "requests"
    with file.open("w") as lines:
        lines.writelines(f"{json.dumps(request)}\n" for request in requests)
    options = ["-to", server.url, "-authority", server.authority, "-name", server.name, "-token", server.token]
    options += ["-at-once", at_once, "-rate", rate, "-expect", expect]
    answer = measure([program("requests"), *options, file])
    file.unlink()
    return Sent(**json.loads(answer.output))
