"""Makes room on a volume: bundles that were not used for longest go first, and never one that is in use.

A bundle is in use while a pod's folder refers to it. Which pods live is not to be seen on a volume, so a pod's folder
counts until somebody who knows says otherwise: with the list of all pods that live, or with the longest time that one
does. Nobody's word is taken for a folder that is younger than an hour: its pod may be younger than the word.

A loader may attach a bundle at the same moment. It touches the bundle, lays its link, and looks whether the bundle is
still there; we rename the bundle, and look whether there is a link now. Whatever the order, one of the two sees the
other: then the loader makes the bundle anew, or we put it back. What was touched lately is not tried at all.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from preheat.amounts import count_of, size_text
from preheat.bundle.contents import (
    BUNDLES,
    FORGOTTEN,
    PODS,
    Bundle,
    Contents,
    PodFolder,
    Unfinished,
    is_referred_to,
    survey,
)
from preheat.bundle.leftovers import bury
from preheat.bundle.processes import has_ended
from preheat.bundle.storage import storage_errors, touch
from preheat.errors import BundleInUseError, CheckpointError, CheckpointNotFoundError

#: Seconds since its last use in which a bundle is not evicted: somebody may be about to attach it. A loader needs a
#: few, and NFS clients show a folder as it was up to 60 s ago.
GRACE = 600.0

_GRAVE = re.compile(r"^\.evicted-(.+)-[0-9a-f]{16}$")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Policy:
    """What may stay on a volume, and what is known of the pods that share it."""

    max_size: int | None = None  # bytes of all bundles; None: whatever they have
    living: frozenset[str] | None = None  # uids of all pods that live; None: nobody knows
    pod_lifetime: float | None = None  # seconds after which a pod has ended for certain; None: it may live for ever

    def ended(self, pod: PodFolder, now: float) -> bool:
        """Whether the pod's folder can go."""
        if has_ended(pod.folder):
            return True
        age = now - pod.attached
        if age <= FORGOTTEN:
            return False
        if self.living is not None and pod.finished:
            return pod.uid not in self.living
        return not pod.finished or (self.pod_lifetime is not None and age > self.pod_lifetime)


@dataclass(frozen=True)
class Collected:
    """What was removed of a volume, and what is there now."""

    bundles: tuple[Bundle, ...]
    unfinished: tuple[Unfinished, ...]
    pods: tuple[PodFolder, ...]
    left: Contents


def collect(root: Path, policy: Policy, *, dry_run: bool = False) -> Collected:
    """Remove what is forgotten, pods' folders that are over, and the longest unused bundles beyond the limit.

    With `dry_run` nothing is changed. Raises StorageError where the volume refuses.
    """
    with storage_errors(root):
        if not dry_run:
            _undo(root)
        now = _clock(root, dry_run)
        found = survey(root)
        forgotten = tuple(each for each in found.unfinished if each.forgotten(now) and (dry_run or bury(each.folder)))
        over = tuple(pod for pod in found.pods if policy.ended(pod, now) and (dry_run or _end(pod, policy, now)))
        left = found.without(over)
        evict = _would_evict if dry_run else partial(_evict, root, now)
        evicted = tuple(_beyond(left, policy.max_size, now, evict))
        bundles = tuple(bundle for bundle in left.bundles if bundle not in evicted)
        unfinished = tuple(each for each in left.unfinished if each not in forgotten)
        return Collected(evicted, forgotten, over, replace(left, bundles=bundles, unfinished=unfinished))


def discard(root: Path, digests: Collection[str], *, force: bool = False) -> tuple[Bundle, ...]:
    """Remove the bundles that are named, all or none; raises CheckpointNotFoundError for one that is not there.

    Raises BundleInUseError for one that pods refer to, unless `force` is set: they cannot start again in place.
    """
    with storage_errors(root):
        _undo(root)
        known = {bundle.digest: bundle for bundle in survey(root).bundles}
        if unknown := [digest for digest in digests if digest not in known]:
            there = ", ".join(known) or "none at all"
            raise CheckpointNotFoundError(f"there is no bundle {unknown[0]!r} on {root}", remedy=f"There are: {there}")
        chosen = [known[digest] for digest in dict.fromkeys(digests)]
        for bundle in chosen:
            if bundle.pods and not force:
                raise _in_use(bundle)
        for bundle in chosen:
            if not _discard(root, bundle, force):
                raise _in_use(bundle)
        return tuple(chosen)


def keep_within(root: Path, policy: Policy, room: int = 0) -> None:
    """Collect, so that `room` more bytes stay within the limit, and tell the log; faults of the volume are told too."""
    limit = policy.max_size
    try:
        done = collect(root, policy if limit is None else replace(policy, max_size=max(0, limit - room)))
    except CheckpointError as error:
        log.warning("old bundles could not be removed: %s", error)
        return
    for bundle in done.bundles:
        log.info("evicted bundle %s, %s: the longest unused beyond the limit", bundle.digest, size_text(bundle.size))
    if done.pods:
        log.info("removed the folders of %s that ended", count_of(len(done.pods), "pod"))
    if limit is not None and done.left.size > limit:
        sizes = size_text(done.left.size), size_text(limit)
        log.warning("the bundles have %s, the limit is %s: the rest is in use, as far as can be seen", *sizes)


def _beyond(contents: Contents, limit: int | None, now: float, evict: Callable[[Bundle], bool]) -> Iterator[Bundle]:
    size = contents.size
    for bundle in contents.bundles:
        if limit is None or size <= limit:
            return
        if not bundle.pods and now - bundle.used > GRACE and evict(bundle):
            size -= bundle.size
            yield bundle


def _discard(root: Path, bundle: Bundle, force: bool) -> bool:
    return _take_away(bundle.folder, lambda grave: force or not _referred(root, bundle.digest))


def _would_evict(bundle: Bundle) -> bool:
    return True


def _evict(root: Path, now: float, bundle: Bundle) -> bool:
    def unused(grave: Path) -> bool:
        return now - grave.lstat().st_mtime > GRACE and not _referred(root, bundle.digest)

    return _take_away(bundle.folder, unused)


def _end(pod: PodFolder, policy: Policy, now: float) -> bool:
    """Remove a pod's folder, unless its loader has run again and laid it anew."""
    return _take_away(
        pod.folder, lambda grave: policy.ended(replace(pod, folder=grave, attached=grave.lstat().st_mtime), now)
    )


def _referred(root: Path, digest: str) -> bool:
    if (root / PODS).is_dir():
        touch(root / PODS)
    return is_referred_to(root, digest)


def _take_away(folder: Path, unused: Callable[[Path], bool]) -> bool:
    """Remove the folder if `unused` holds when nobody can find it any more; else it gets its place back."""
    grave = folder.with_name(f".evicted-{folder.name}-{os.urandom(8).hex()}")
    try:
        folder.rename(grave)
        return _decide(grave, unused)
    except FileNotFoundError:  # another was faster, or has put it back
        return False


def _decide(grave: Path, unused: Callable[[Path], bool]) -> bool:
    gone = False
    try:
        gone = unused(grave) and bury(grave)
    finally:
        if not gone:
            _put_back(grave)
    return gone


def _undo(root: Path) -> None:
    """Put back what one that was killed took away, and perhaps should not have."""
    for parent in (root / BUNDLES, root / PODS):
        if not parent.is_symlink():
            for grave in parent.glob(".evicted-*"):
                _put_back(grave)


def _put_back(grave: Path) -> None:
    named = _GRAVE.match(grave.name)
    if not named:
        return
    try:
        grave.rename(grave.with_name(named[1]))
    except FileNotFoundError:  # another has put it back
        return
    except OSError:  # it was made anew meanwhile
        bury(grave)


def _clock(root: Path, dry_run: bool) -> float:
    """Now, by the clock that stamps the volume's folders; by ours where nothing is to be written."""
    folder = root / BUNDLES
    if dry_run or not folder.is_dir():
        return time.time()
    touch(folder)
    return folder.stat().st_mtime


def _in_use(bundle: Bundle) -> BundleInUseError:
    pods = f"pod {bundle.pods[0]}" if len(bundle.pods) == 1 else f"{len(bundle.pods)} pods"
    return BundleInUseError(
        f"bundle {bundle.digest} is in use by {pods or 'a pod'}",
        remedy="Wait for their end, or force it: they cannot start again in place without it",
    )
