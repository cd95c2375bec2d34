"""Tells how this process ends: in order, or by what a checkpoint may be to blame for.

In order are the end of the script, `sys.exit(0)`, Ctrl-C and SIGTERM, as a node that is drained sends it. An exception
that nobody catches, another exit code, and every end that no Python sees, such as a lack of memory, are not.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing import parent_process, util
from types import FrameType
from typing import Any, NoReturn


class Ending:
    """Calls `in_order` when this process ends so."""

    def __init__(self, in_order: Callable[[], None]) -> None:
        self._in_order = in_order
        self._process = os.getpid()
        self._status: object = None  # that the program has left with, as far as it said so

    def watch(self) -> None:
        """From now on."""
        self._watch_exit()
        if parent_process() is None:
            atexit.register(self._finished)
        else:  # children of multiprocessing leave without what atexit knows
            util.Finalize(self, self._finished, exitpriority=0)
        if threading.current_thread() is threading.main_thread():
            self._watch_sigterm()

    def _watch_exit(self) -> None:
        leave = sys.exit

        def exit_(status: Any = None, /) -> NoReturn:
            self._status = status
            leave(status)

        sys.exit = exit_

    def _watch_sigterm(self) -> None:
        """Where the signal would end the process by itself. Handlers that others set may call the one before them."""
        if signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
            return

        def terminated(number: int, frame: FrameType | None) -> None:
            if os.getpid() == self._process:
                self._in_order()
            if signal.getsignal(signal.SIGTERM) is terminated:
                signal.signal(signal.SIGTERM, signal.SIG_DFL)
                os.kill(os.getpid(), signal.SIGTERM)

        signal.signal(signal.SIGTERM, terminated)

    def _finished(self) -> None:
        if os.getpid() != self._process:
            return  # a fork
        uncaught = getattr(sys, "last_value", None)
        if self._status in (None, 0) and (uncaught is None or isinstance(uncaught, KeyboardInterrupt)):
            self._in_order()
