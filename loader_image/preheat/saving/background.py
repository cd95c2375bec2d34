"""One checkpoint at a time is written beside the training, by a thread that the process waits for before it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)


class Background:
    """What is on its way, and what went wrong with it."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, write: Callable[[], object]) -> None:
        """Write in a thread; the one before must be finished."""
        self._thread = threading.Thread(target=self._run, args=(write,), name="preheat-saving")
        self._thread.start()  # no daemon: Python waits for it when it ends

    def finish(self) -> None:
        """Wait for what is on its way; raises what went wrong, once."""
        if self._thread:
            self._thread.join()
            self._thread = None
        error, self._error = self._error, None
        if error:
            raise error

    def _run(self, write: Callable[[], object]) -> None:
        try:
            write()
        except BaseException as error:
            log.error("a checkpoint was not saved: %s", error)
            self._error = error
