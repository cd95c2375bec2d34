"""How runs of a container ended, as the kubelet remembers them: the present one, and the one before it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from preheat_operator.foreign import Object, mapping

_FIELD = re.compile(r'"(outcome|reason|message|remedy)":\s*"((?:[^"\\]|\\.)*)')
_COUNT = re.compile(r'"(uploaded|bytes|failures)":\s*(\d{1,18})\b')


@dataclass(frozen=True)
class Termination:
    """One run's end."""

    time: str  # RFC 3339, UTC; empty: the kubelet did not tell
    code: int | None
    reason: str  # the kubelet's
    message: str  # the container's
    run: int  # the container's restart count, so that two runs are told apart

    @cached_property
    def report(self) -> Object:
        """The container's words. The kubelet cuts those of pods with many containers: the first fields are rescued."""
        try:
            document = json.loads(self.message)
        except (ValueError, RecursionError):
            return _rescued(self.message) if self.message.lstrip().startswith("{") else {}
        return document if isinstance(document, Mapping) else {}


def _rescued(message: str) -> Object:
    return {**dict(_FIELD.findall(message)), **{name: int(count) for name, count in _COUNT.findall(message)}}


def terminations(container: Object) -> Iterator[Termination]:
    """Those of a container's status, newest first."""
    count = container.get("restartCount")
    run = count if isinstance(count, int) else 0
    current = mapping(container, "state").get("terminated")
    if isinstance(current, Mapping):
        yield _termination(current, run)
    last = mapping(container, "lastState").get("terminated")
    if isinstance(last, Mapping):
        # While a crashed container waits for its next run the count still names the crashed one.
        waiting = isinstance(mapping(container, "state").get("waiting"), Mapping)
        yield _termination(last, run if waiting else max(run - 1, 0))


def _termination(end: Object, run: int) -> Termination:
    code = end.get("exitCode")
    return Termination(
        str(end.get("finishedAt") or ""),
        code if isinstance(code, int) else None,
        str(end.get("reason") or ""),
        str(end.get("message") or ""),
        run,
    )
