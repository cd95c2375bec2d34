"""How often and how long a source is tried again."""

from __future__ import annotations

import random
import threading
import time

from preheat.blob import Patience
from preheat.errors import CheckpointError, CheckpointTimeoutError

FIRST_PAUSE = 0.5  # seconds; doubles with every attempt
LONGEST_PAUSE = 20.0
#: Fewer bytes than this within the whole timeout are no progress: a server that drips must not hold a pod for days.
PROGRESS = 64 * 1024
#: After so many bytes faults count anew: one read of a whole object is tried as patiently as its parts would be.
RENEWAL = 16 << 20


class Interrupted(Exception):  # noqa: N818 - never leaves the sources; `error` is what the caller sees
    """A fault that may pass. `error` is raised when it does not; `retry_after` is the server's wish in seconds.

    `at_once`: on a connection that was used before, the fault is none; ask again on a new one. `busy`: the server has
    too much to do, or so it says.
    """

    def __init__(
        self, error: CheckpointError, retry_after: float | None = None, *, at_once: bool = False, busy: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry_after = retry_after
        self.at_once = at_once
        self.busy = busy


class Attempts:
    """The patience spent on one read; none is left once `ended` is set."""

    def __init__(self, uri: str, patience: Patience, ended: threading.Event) -> None:
        self._uri = uri
        self._patience = patience
        self._ended = ended
        self._failures = 0
        self._since = time.monotonic()
        self._bytes = 0
        self._since_fault = 0
        self._fetched = 0

    def received(self, count: int) -> None:
        """Count bytes; raises CheckpointTimeoutError when they come too slowly to be called progress."""
        self._bytes += count
        self._since_fault += count
        if self._bytes >= PROGRESS:
            self._bytes, self._since = 0, time.monotonic()
        elif self._left() <= 0:
            raise self._timeout()

    def again(self, fault: Interrupted, fetched: int = 0) -> None:
        """Wait for the next attempt; raises the fault's error when there is none left.

        `fetched` is what all connections have received so far: a busy server that serves others meanwhile is asked
        until time is up, however often that is.
        """
        self._failures = 1 if self._since_fault >= RENEWAL else self._failures + 1
        if fault.busy and fetched > self._fetched:
            self._failures = min(self._failures, self._patience.max_retries)
        self._since_fault, self._fetched = 0, fetched
        if self._failures > self._patience.max_retries or self._ended.is_set():
            raise fault.error
        pause = fault.retry_after
        if pause is None:
            pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (self._failures - 1)) * random.uniform(0.5, 1)  # noqa: S311
        if pause >= self._left():
            raise fault.error if self._left() > 0 else self._timeout() from fault.error
        if self._ended.wait(pause):
            raise fault.error

    def _left(self) -> float:
        return self._since + self._patience.timeout_seconds - time.monotonic()

    def _timeout(self) -> CheckpointTimeoutError:
        return CheckpointTimeoutError(
            f"{self._uri}: no progress for {self._patience.timeout_seconds:g} s",
            remedy="Check the server and the network, or raise timeoutSeconds",
        )
