"""The process of a container of Preheat's: its log, its signals, its deadline, and how it ends."""

from __future__ import annotations

import gc
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn, Protocol

from preheat.errors import CheckpointError, CheckpointTimeoutError
from preheat.redaction import RedactingFormatter, Redaction
from preheat.termination_message import leave_failure, leave_message

TERMINATED = 128 + signal.SIGTERM
#: Objects until cycles are looked for: imports make many that stay, and to look through them takes time at the start.
GC_THRESHOLD = 20_000
_MORE_TIME = "Raise loader.deadlineSeconds, or let the container start again: it goes on"

log = logging.getLogger(__name__)


class Told(Protocol):
    """What came of a run."""

    def to_json(self) -> dict[str, Any]:
        """The termination message."""
        ...


def run(work: Callable[[], Told]) -> int:
    """Do the work, leave its termination message and return the exit code."""
    gc.set_threshold(GC_THRESHOLD)
    log_to_stderr()
    signal.signal(signal.SIGTERM, _terminate)
    try:
        done = work()
    except CheckpointError as error:
        log.error("%s: %s", error.reason, error)
        return leave_failure(error.exit_code, error.reason, error.args[0], error.remedy)
    except _TerminatedError:
        log.error("terminated; the next run goes on with what is finished")
        return leave_failure(TERMINATED, "Terminated", "the loader was terminated before it was done", "")
    except Exception as error:
        log.exception("InternalError: this is a defect of Preheat")
        return leave_failure(
            1, "InternalError", f"{type(error).__name__} in the loader", "See the log of preheat-loader"
        )
    leave_message(done.to_json())
    return 0


def log_to_stderr() -> None:
    """Log as a container of Preheat does: our own lines, without credentials."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(RedactingFormatter(Redaction(os.environ), "%(asctime)s %(message)s", "%Y-%m-%dT%H:%M:%SZ"))
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    logging.getLogger("preheat").setLevel(logging.INFO)  # ours only; botocore would tell of its own affairs


class _TooLateError(BaseException):
    """The deadline has passed; no handler of errors on the way takes it for one of its own."""


@contextmanager
def deadline(seconds: float | None) -> Iterator[None]:
    """End the block with a CheckpointTimeoutError when so much time has passed, whatever it does."""
    if seconds is None:
        yield
        return

    def end(number: int, frame: FrameType | None) -> NoReturn:
        raise _TooLateError

    signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except _TooLateError:
        raise CheckpointTimeoutError(f"not done within {seconds:g} s", remedy=_MORE_TIME) from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class _TerminatedError(BaseException):
    """SIGTERM arrived; unwinding sets aside what is finished, and removes the rest."""


def _terminate(number: int, frame: FrameType | None) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough; unwinding must not be cut short
    raise _TerminatedError
