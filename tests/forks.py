"""The ranks of a script, forked: importing torch costs each of them more than its part does."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

SECONDS = 240


def forked(world: int, main: Callable[[int], None]) -> int:
    """Call `main` with its rank in that many processes; the exit code of the first that fails, whose others end."""
    children = [_start(rank, main) for rank in range(world)]
    for _ in range(world):
        child, status = os.wait()
        children.remove(child)
        if code := os.waitstatus_to_exitcode(status):
            for other in children:
                os.kill(other, signal.SIGKILL)
            return abs(code)
    return 0


def _start(rank: int, main: Callable[[int], None]) -> int:
    if child := os.fork():
        return child
    os.environ["RANK"] = str(rank)
    signal.alarm(SECONDS)  # nobody else ends a rank that waits for one that is gone
    try:
        main(rank)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        os._exit(1)
    sys.stdout.flush()
    os._exit(0)  # gloo's own teardown waits for ranks that are gone
