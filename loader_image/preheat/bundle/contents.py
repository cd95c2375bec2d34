"""What is on a volume: bundles, what is to become one, and the pods that refer to them.

Only looks, also where nothing may be written. Whatever does not bear a name of ours is not ours, and is left alone.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from preheat.bundle.manifest import MANIFEST
from preheat.errors import StorageError

BUNDLES = "bundles"
PODS = "pods"
BUNDLE_LINK = "bundle"
FORGOTTEN = 3600.0  # age in seconds from which nobody is believed to be at work on a folder any more

_DIGEST = re.compile(r"^[0-9a-f]{32}$")
_PARTIAL = re.compile(r"^\.partial-(left-)?([0-9a-f]{32})-(.+)$")
_LEAVING = (".partial-", ".evicted-")


@dataclass(frozen=True)
class Bundle:
    """A folder with the name of a bundle. Times are seconds since the epoch by the volume's clock."""

    digest: str
    folder: Path
    size: int  # bytes
    made: float
    used: float  # when a loader last gave it to somebody
    pods: tuple[str, ...] = ()  # uids of those that refer to it


@dataclass(frozen=True)
class Unfinished:
    """A bundle in the making, or what is left of one: without a maker it waits for one, without a digest it goes."""

    folder: Path
    digest: str
    maker: str
    size: int  # bytes that are on the disk
    seen: float  # the last sign of life

    def forgotten(self, now: float) -> bool:
        """Whether nobody is believed to be at work on it."""
        return now - self.seen > FORGOTTEN


@dataclass(frozen=True)
class PodFolder:
    """What the loader laid out for one pod."""

    uid: str
    folder: Path
    digest: str | None  # that it refers to
    attached: float
    finished: bool  # its loader put it into its place


@dataclass(frozen=True)
class Contents:
    """Everything on one volume that is ours."""

    bundles: tuple[Bundle, ...]  # those longest unused first
    unfinished: tuple[Unfinished, ...]
    pods: tuple[PodFolder, ...]

    @property
    def size(self) -> int:
        """Bytes of all bundles."""
        return sum(bundle.size for bundle in self.bundles)

    def without(self, pods: Collection[PodFolder]) -> Contents:
        """The same, were these pods' folders gone."""
        gone = set(pods)
        left = tuple(pod for pod in self.pods if pod not in gone)
        return replace(self, bundles=tuple(_with_pods(self.bundles, left)), pods=left)


def survey(root: Path) -> Contents:
    """Everything on the volume; raises StorageError where a link stands in the place of a folder of ours."""
    pods = tuple(pods_on(root))
    ordered = sorted(_with_pods(_bundles(root / BUNDLES), pods), key=lambda bundle: (bundle.used, bundle.digest))
    return Contents(tuple(ordered), tuple(unfinished_on(root)), pods)


def unfinished_on(root: Path) -> Iterator[Unfinished]:
    """What is to become a bundle, or was one."""
    for entry in _folders(root / BUNDLES):
        if entry.name.startswith(_LEAVING):
            named = _PARTIAL.match(entry.name)
            digest, maker = (named[2], "" if named[1] else named[3]) if named else ("", "")
            with suppress(FileNotFoundError):  # its maker was faster
                seen = entry.stat(follow_symlinks=False).st_mtime
                # A file in the making has its full length from the start.
                size = sum(status.st_blocks * 512 for status in _files(entry.path))
                yield Unfinished(Path(entry.path), digest, maker, size, seen)


def pods_on(root: Path) -> Iterator[PodFolder]:
    """The pods' folders, those that are not finished and those on their way out too."""
    for entry in _folders(root / PODS):
        with suppress(FileNotFoundError):
            attached = entry.stat(follow_symlinks=False).st_mtime
            uid = entry.name.removeprefix(".partial-")
            finished = not entry.name.startswith(_LEAVING)
            yield PodFolder(uid, Path(entry.path), _referred_digest(Path(entry.path)), attached, finished)


def is_referred_to(root: Path, digest: str) -> bool:
    """Whether a pod's folder refers to the bundle, be it unfinished or on its way out."""
    return any(_referred_digest(Path(entry.path)) == digest for entry in _folders(root / PODS))


def link_to(digest: str) -> str:
    """What a pod's link to its bundle holds."""
    return f"../../{BUNDLES}/{digest}"


def _bundles(folder: Path) -> Iterator[Bundle]:
    for entry in _folders(folder):
        if _DIGEST.match(entry.name):
            with suppress(FileNotFoundError):
                used = entry.stat(follow_symlinks=False).st_mtime
                size = sum(status.st_size for status in _files(entry.path))
                yield Bundle(entry.name, Path(entry.path), size, _made(Path(entry.path), used), used)


def _made(folder: Path, otherwise: float) -> float:
    try:
        return (folder / MANIFEST).lstat().st_mtime
    except OSError:
        return otherwise


def _with_pods(bundles: Iterable[Bundle], pods: Iterable[PodFolder]) -> Iterator[Bundle]:
    """The bundles with the pods that refer to them; of one that another user made only these show the last use."""
    referring: dict[str | None, list[PodFolder]] = {}
    for pod in pods:
        referring.setdefault(pod.digest, []).append(pod)
    for bundle in bundles:
        mine = referring.get(bundle.digest, [])
        used = max([bundle.used, *(pod.attached for pod in mine)])
        yield replace(bundle, pods=tuple(sorted(pod.uid for pod in mine)), used=used)


def _referred_digest(pod: Path) -> str | None:
    try:
        target = os.readlink(pod / BUNDLE_LINK)
    except OSError:
        return None
    digest = target.rpartition("/")[2]
    return digest if target == link_to(digest) else None


def _folders(parent: Path) -> Iterator[os.DirEntry[str]]:
    """Folders in `parent`, links to folders left out."""
    if parent.is_symlink():
        raise StorageError(f"{parent} is a link, not a folder", remedy="Remove it from the volume")
    try:
        entries = list(os.scandir(parent))
    except FileNotFoundError:
        return
    yield from (entry for entry in entries if entry.is_dir(follow_symlinks=False))


def _files(folder: str) -> Iterator[os.stat_result]:
    with suppress(FileNotFoundError, NotADirectoryError):
        for entry in list(os.scandir(folder)):
            with suppress(FileNotFoundError):
                yield entry.stat(follow_symlinks=False)
