"""Running other programs to their end, waiting for a condition, and telling a person what happens."""

from __future__ import annotations

import fcntl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


class CommandError(Exception):
    """A program ended with an error: which one, and what it said."""


class DeadlineError(Exception):
    """A condition did not come true in time: which one, and what was seen last."""


def say(line: str) -> None:
    """Report one step to the person who waits."""
    print(f"==> {line}", file=sys.stderr, flush=True)


def run(
    *command: str | Path, stdin: str | None = None, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> str:
    """Run to the end and return the output; raise CommandError with what the program said."""
    done = subprocess.run(command, capture_output=True, text=True, input=stdin, env=env, cwd=cwd)
    if done.returncode:
        said = (done.stderr + done.stdout).strip()[-4000:]
        raise CommandError(f"`{' '.join(map(str, command))}` ended with {done.returncode}:\n{said}")
    return done.stdout


def wait_until(what: str, condition: Callable[[], bool], seconds: float, interval: float = 0.1) -> None:
    """Poll until the condition holds; a CommandError on the way counts as not yet."""
    deadline = time.monotonic() + seconds
    seen = ""
    while True:
        try:
            if condition():
                return
        except CommandError as failure:
            seen = f"; last: {failure}"
        if time.monotonic() > deadline:
            raise DeadlineError(f"after {seconds:.0f} s still not: {what}{seen}")
        time.sleep(interval)


@contextmanager
def only_one(lock: Path) -> Iterator[None]:
    """Hold the lock file; other processes that want it wait."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
