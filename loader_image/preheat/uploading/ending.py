"""How a process is told to come to its end: by a signal, which may arrive at any moment."""

from __future__ import annotations

import os
import select
import signal
from types import FrameType


class Ending:
    """Whether the end has come. A pipe, because what a handler of signals does must not wait for a lock."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)

    def by(self, *signals: signal.Signals) -> Ending:
        """Come with one of these signals; a second one has its usual effect."""

        def handle(number: int, frame: FrameType | None) -> None:
            self.come()
            signal.signal(number, signal.SIG_DFL if number != signal.SIGTERM else signal.SIG_IGN)

        for each in signals:
            signal.signal(each, handle)
        return self

    def come(self) -> None:
        """The end has come."""
        os.write(self._write, b".")

    def wait(self, seconds: float) -> bool:
        """Wait for the end, so long at most; whether it has come."""
        return bool(select.select([self._read], [], [], seconds)[0])
