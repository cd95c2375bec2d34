"""SIGTERM, as Kubernetes sends it before it ends a pod: held back until the training has saved, then obeyed.

Where several processes train together they stop after the same step. The first that was told says after which in their
store; the others look there at the end of each step, and cannot be further, since they exchange gradients in each.
"""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Any

from preheat.ranks import group

#: Steps that the others are given to see it: in the next one they wait for this process, and look when it is over.
_AHEAD = 2
_KEY = "preheat/termination"


class Termination:
    """The signal of this process, or of one that trains with it. Use it as a context manager, in the main thread."""

    def __init__(self) -> None:
        self._received = False
        self._before: Any = None
        self._last: int | None = None  # step
        self._held = False

    def __enter__(self) -> Termination:
        if threading.current_thread() is threading.main_thread():  # no other may
            self._before, self._held = signal.signal(signal.SIGTERM, self._note), True
        return self

    def __exit__(self, *_: object) -> None:
        if self._held:
            signal.signal(signal.SIGTERM, self._before or signal.SIG_DFL)
            self._held = False

    def after(self, step: int) -> bool:
        """Whether the training is to be saved and end after this step, its number; ask after each one."""
        if self._last is None:
            self._last = self._agreed(step)
        return self._last is not None and step >= self._last

    def obey(self) -> None:
        """Let the signal do what it does without us: by default it ends the process."""
        self.__exit__()
        os.kill(os.getpid(), signal.SIGTERM)

    def _note(self, _number: int, _frame: FrameType | None) -> None:
        if self._received:  # told again: whoever asks does not want to wait
            self.obey()
        self._received = True

    def _agreed(self, step: int) -> int | None:
        store = _store()
        if store is None:
            return step if self._received else None
        if self._received and not store.check([_KEY]):
            store.compare_set(_KEY, "", str(step + _AHEAD))
        return int(store.get(_KEY)) if store.check([_KEY]) else None


def _store() -> Any:
    """That of the process group; None where this process trains alone."""
    found = group()
    return found.distributed_c10d._get_default_store() if found and found.get_world_size() > 1 else None
