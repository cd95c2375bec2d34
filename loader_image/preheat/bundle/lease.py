"""Which of several makers of one bundle does the work: the one whose folder shows life.

This spares work and is no lock: makers write to folders of their own, and finished bundles are renamed into place.
"""

from __future__ import annotations

import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from preheat.bundle.leftovers import bury, set_aside

HEARTBEAT = 2.0  # seconds between signs of life
#: Seconds without one, after which a maker counts as dead. NFS clients show a folder as it was up to 60 s ago.
EXPIRY = 90.0

log = logging.getLogger(__name__)


def owner_here() -> str:
    """A maker's name for a process that is no pod; others on this machine can tell whether it still runs."""
    host = re.sub("[^A-Za-z0-9-]", "-", os.uname().nodename)
    return f"host-{host}_{os.getpid()}"


def take(folder: Path, others: Callable[[], list[Path]], done: Callable[[], bool], waiting: Callable[[], None]) -> bool:
    """Make `folder` once no other maker lives, and return True; False as soon as `done` says so.

    `others` lists the folders of all makers of the same bundle. What a dead one left is removed, or set aside.
    `waiting` is told once if there is a living one.
    """
    lives: dict[Path, tuple[int, float]] = {}  # by folder: its heartbeat, and when that changed by our own clock
    announced = False
    while not done():
        set_aside(folder)  # our own, from before a restart
        rivals = _living(others(), lives)
        if not rivals:
            folder.mkdir()
            rivals = _living([path for path in others() if path != folder], lives)
            if not rivals and not done():
                return True
            bury(folder)  # two came at the same moment: both step back
        elif not announced:
            log.info("waiting for another loader that makes the same bundle: %s", rivals[0].name)
            waiting()
            announced = True
        time.sleep(random.uniform(0.1, 0.4))  # noqa: S311 - unequal, so that two do not step back for ever
    return False


@contextmanager
def heartbeat(folder: Path) -> Iterator[None]:
    """Show life for as long as the block runs."""
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(HEARTBEAT):
            with suppress(OSError):  # taken over, or a fault of the volume that may pass
                os.utime(folder)

    thread = threading.Thread(target=beat, name="preheat-heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _living(folders: list[Path], lives: dict[Path, tuple[int, float]]) -> list[Path]:
    living = []
    for folder in folders:
        try:
            beat, now = folder.lstat().st_mtime_ns, time.monotonic()
        except FileNotFoundError:
            continue
        if folder not in lives or lives[folder][0] != beat:
            lives[folder] = beat, now
        # Clocks of other machines do not count: what matters is whether the time stamp moves.
        if now - lives[folder][1] > EXPIRY or died_here(folder.name):
            log.info("another loader died: %s", folder.name)
            set_aside(folder)
        else:
            living.append(folder)
    return living


def died_here(name: str) -> bool:
    """Whether the name ends with an owner of this machine that does not run any more."""
    here = owner_here().rpartition("_")[0]
    found = re.search(rf"-{re.escape(here)}_(\d+)$", name)
    if not found:
        return False
    try:
        os.kill(int(found[1]), 0)  # asks, and sends nothing
    except (OSError, OverflowError) as error:
        return not isinstance(error, PermissionError)  # another user's runs
    return False
