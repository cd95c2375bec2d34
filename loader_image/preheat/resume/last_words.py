"""The mark of a process that can leave none beside its run: it stands in its container's termination message.

Kubernetes keeps that message when the container has ended, whatever ended it. Preheat's controller reads it in the
pod's status, and tells the loaders of later pods (`deaths`). What a program has written there itself is left alone.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PREHEAT = "preheat"
_LONGEST = 4096  # bytes of a message that Kubernetes keeps


@dataclass(frozen=True)
class Spoken:
    """What this process has left there."""

    path: Path
    start: str
    rank: int

    def remove(self) -> None:
        """The process came to its end in order, or never began; what the last rank takes away is the message."""
        with suppress(OSError), _message(self.path) as message:
            if message.said.get("start") == self.start:
                left = [each for each in message.said.get("ranks", ()) if each != self.rank]
                message.write({**message.said, "ranks": left} if left else {})


@dataclass(frozen=True)
class LastWords:
    """The message of this process's container; it is there before the container is."""

    path: Path

    def begin(self, said: dict[str, Any], start: str, rank: int) -> Spoken:
        """Leave what there will be to say of this process, in a message of all its ranks; raises OSError."""
        with _message(self.path) as message:
            if message.foreign:
                raise FileExistsError(0, "the training writes a termination message of its own")
            others = message.said.get("ranks", []) if message.said.get("start") == start else []
            message.write({**said, "start": start, "ranks": sorted({*others, rank})})
        return Spoken(self.path, start, rank)


@dataclass
class _Message:
    file: int
    said: dict[str, Any]  # by us: the first line
    foreign: str = ""  # the rest

    def write(self, said: dict[str, Any]) -> None:
        line = f"{json.dumps({PREHEAT: said}, separators=(',', ':'))}\n" if said else ""
        text = f"{line}{self.foreign}".encode()
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, text, 0)


@contextmanager
def _message(path: Path) -> Iterator[_Message]:
    """The file, which nobody else of ours changes meanwhile; raises OSError where there is none."""
    file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        text = os.read(file, _LONGEST).decode(errors="replace")
        said = words(text)
        yield _Message(file, said, text.partition("\n")[2] if said else text)
    finally:
        os.close(file)


def words(text: str) -> dict[str, Any]:
    """What a process has left in a termination message; empty: nothing, or something else is there."""
    try:
        document = json.loads(text.partition("\n")[0])
    except (ValueError, RecursionError):
        return {}
    said = document.get(PREHEAT) if isinstance(document, dict) else None
    return said if isinstance(said, dict) else {}
