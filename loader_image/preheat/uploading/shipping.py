"""Sends what is finished of a folder, once or for as long as it grows, and keeps account of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from preheat.amounts import size_text
from preheat.bundle.manifest import MANIFEST, Manifest
from preheat.errors import CheckpointError, CheckpointNotFoundError, NotABundleError, SourceChangedError
from preheat.progress import Progress, watched
from preheat.runs.listing import Entry
from preheat.uploading.account import Account
from preheat.uploading.content import Content
from preheat.uploading.ending import Ending
from preheat.uploading.finished import Rest, Unit, units_in
from preheat.uploading.target import Target

#: Seconds between two looks at the folder.
PERIOD = 5.0
#: Seconds until what failed is tried again, at most.
LONGEST_PAUSE = 60.0
#: How often the last look is repeated when something fails: the pod is about to end.
LAST_TRIES = 5

log = logging.getLogger(__name__)


class Shipping:
    """Sends units of one folder to one target. What was sent and has not changed since is not looked at again.

    `told` is called whenever the account has changed, and after every look.
    """

    def __init__(
        self,
        root: Path,
        target: Target,
        progress: Progress | None = None,
        below: str = "",
        told: Callable[[Account], None] = lambda account: None,
    ) -> None:
        self._root = root
        self._below = below
        self._target = target
        self._progress = progress
        self._sent: dict[str, tuple[Entry, ...]] = {}
        self._told = told
        self.account = Account(target.uri)

    def look(self, rest: Rest) -> bool:
        """Send what can be sent now; False when something could not be. Raises nothing that may pass."""
        units = [
            unit for unit in units_in(self._root, rest.look, self._below) if self._sent.get(unit.name) != unit.files
        ]
        self.account.waiting = dict.fromkeys(unit.name for unit in units)
        if units:  # of a container that is killed on the way this is all that is known
            self._told(self.account)
        with watched(self._progress if units else None, sum(unit.size for unit in units)) as advance:
            done = [self._send(unit, advance) for unit in units]
        if all(done):
            self.account.error = None
        self._told(self.account)
        return all(done)

    def _send(self, unit: Unit, advance: Callable[[int], None]) -> bool:
        started = time.monotonic()
        try:
            files, count = self._ship(unit, advance)
        except (SourceChangedError, CheckpointNotFoundError) as error:
            if self._gone(unit):
                log.info("%s was removed or changed while it was sent", unit.name)
                self.account.waiting.pop(unit.name, None)
                return True  # and comes again when it rests
            return self._failed(unit, error)
        except CheckpointError as error:
            return self._failed(unit, error)
        self._sent[unit.name] = unit.files
        self.account.sent(unit.name, files, count)
        if files:
            seconds = max(time.monotonic() - started, 0.001)
            said = unit.name, size_text(count), seconds, size_text(count / seconds)
            log.info("uploaded %s: %s in %.1f s, %s/s, verified", *said)
        self._told(self.account)
        return True

    def _gone(self, unit: Unit) -> bool:
        for entry in unit.files:
            try:
                found = (self._root / entry.path).lstat()
            except FileNotFoundError:
                return True
            if (found.st_size, found.st_mtime) != (entry.size, entry.modified):
                return True
        return False

    def _failed(self, unit: Unit, error: CheckpointError) -> bool:
        log.error("%s: %s: %s", unit.name, error.reason, error)
        self.account.failed(error)
        self._told(self.account)
        return False

    def _ship(self, unit: Unit, advance: Callable[[int], None]) -> tuple[int, int]:
        """How many files and bytes were sent; none when all were there."""
        if unit.manifest:
            return self._ship_checkpoint(unit, advance)
        return self._ship_files(unit.files, advance)

    def _ship_checkpoint(self, unit: Unit, advance: Callable[[int], None]) -> tuple[int, int]:
        """The manifest makes a checkpoint of the files: it goes last, and one that is there of an older goes first."""
        *files, manifest = unit.files
        with Content(self._root / manifest.path) as content:
            document = content.read()
            content.check()
        _check(unit, document)
        there = self._target.read(manifest.path)
        if there == document:
            advance(unit.size)
            return 0, 0
        if there is not None:
            self._target.remove(manifest.path)
        count, total = self._ship_files(files, advance)
        self._target.write(manifest.path, document)
        advance(len(document))
        if self._target.read(manifest.path) != document:
            raise NotABundleError(
                f"{self._target.uri}{manifest.path} was sent and is not there as it was sent",
                remedy="Another may write there: give each training a place of its own",
            )
        return count + 1, total + len(document)

    def _ship_files(self, files: list[Entry] | tuple[Entry, ...], advance: Callable[[int], None]) -> tuple[int, int]:
        count = total = 0
        for entry in files:
            with Content(self._root / entry.path) as content:
                if (content.size, content.modified) != (entry.size, entry.modified):
                    raise content.changed()
                if self._target.put(content, entry.path, advance):
                    count, total = count + 1, total + content.size
        return count, total


def follow(shipping: Shipping, rest: Rest, ending: Ending) -> None:
    """Look again and again until the end comes, and then once more: what is there by then rests."""
    pause = 0.0
    while not ending.wait(pause):
        pause = PERIOD if shipping.look(rest) else min(2 * max(pause, PERIOD), LONGEST_PAUSE)
    finish(shipping)


def finish(shipping: Shipping) -> None:
    """Send all that is there; nobody writes to it any more."""
    for attempt in range(LAST_TRIES):
        if shipping.look(Rest(0)):
            return
        if attempt < LAST_TRIES - 1:
            time.sleep(2**attempt)


def _check(unit: Unit, document: bytes) -> None:
    """Raise NotABundleError when the files are not those of the manifest."""
    manifest = Manifest.from_json(document)
    folder = unit.files[-1].folder
    sizes = {entry.path: entry.size for entry in unit.files}
    for name, size in manifest.files.items():
        if sizes.get(f"{folder}/{name}" if folder else name) != size:
            raise NotABundleError(
                f"{unit.name}: {name} is not what {MANIFEST} says it is", remedy="Save the checkpoint again"
            )
