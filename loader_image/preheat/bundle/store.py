"""Where bundles live on a volume, how one comes to be all at once or not at all, and which pod uses which.

A bundle is made in a folder of its maker's own and renamed when its manifest is in it, so two makers never mix and a
killed one leaves nothing that looks finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

from preheat.bundle.absence import Absence
from preheat.bundle.contents import BUNDLE_LINK, BUNDLES, PODS, link_to, unfinished_on
from preheat.bundle.data import read_manifest
from preheat.bundle.eviction import Policy, keep_within
from preheat.bundle.lease import heartbeat, take
from preheat.bundle.leftovers import bury, inherit, journals_in, remove, set_aside
from preheat.bundle.manifest import LAYOUT, MANIFEST, STATE, STATE_TENSORS, WEIGHTS, Manifest
from preheat.bundle.storage import storage_errors, sync, touch
from preheat.errors import (
    CheckpointConfigError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    NotABundleError,
    SourceChangedError,
    StorageError,
    TruncatedError,
)
from preheat.spec import PipelineSpec
from preheat.spelling import spell

SHIM_FOLDER = "shim"
#: Beside the bundle of a pod lies nothing else.
NO_DOCUMENTS: Mapping[str, str] = MappingProxyType({})

_PLAIN_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}$")


def digest_of(uri: str, version: str, spec: PipelineSpec) -> str:
    """The name of the bundle that `spec` makes of one version of a source: 32 hexadecimal digits."""
    stages = [spell(stage) for stage in spec.stages]
    settings = {"stages": stages, "continueOnError": spec.continue_on_error}
    identity = {"uri": uri, "version": version, "layout": LAYOUT, **settings}
    canonical = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:32]


class Partial:
    """A bundle in the making: write `weights`, and for a warm start `state_tensors` and the state, then publish.

    What another maker that did not get to its end has written of them is there already, if its journal is.
    """

    def __init__(self, store: Store, folder: Path, digest: str) -> None:
        self.folder = folder
        self.weights = folder / WEIGHTS
        self.state_tensors = folder / STATE_TENSORS
        self._store = store
        self._digest = digest

    def make_room(self, size: int) -> None:
        """Before `size` bytes are written: let others go, where the volume has a limit."""
        self._store.make_room(size)

    def write_state(self, document: bytes) -> int:
        """Write the training state's document, and return its bytes."""
        with storage_errors(self.folder):
            _write_file(self.folder / STATE, [document])
        return len(document)

    def publish(self, manifest: Manifest) -> Path:
        """Write the manifest, make everything durable, give the bundle its name and return its folder."""
        with storage_errors(self.folder):
            try:
                for name in manifest.files:
                    sync(self.folder / name)
                _write_file(self.folder / MANIFEST, (line.encode() for line in manifest.lines()))
                for journal in journals_in(self.folder):
                    journal.unlink()
                sync(self.folder)
                return self._store.adopt(self.folder, self._digest)
            except FileNotFoundError:
                return self._taken_over()

    def _taken_over(self) -> Path:
        found = self._store.find(self._digest)
        if not found:
            raise StorageError(
                "another loader took over this bundle while this one showed no life", remedy="Run it again"
            )
        return found[0]


class Store:
    """The bundles of one volume, and the pods that use them; `policy` says what may stay when another one is made."""

    def __init__(self, root: Path, policy: Policy | None = None) -> None:
        self.root = root
        self.policy = policy
        self.bundles = root / BUNDLES
        self.pods = root / PODS

    def find(self, digest: str) -> tuple[Path, Manifest] | None:
        """A finished bundle and its manifest; None when there is none, or one whose files are damaged."""
        folder = self.bundles / digest
        # Others may write to the volume: a link leads out of it, and a pipe would never end.
        if folder.is_symlink() or not (_is_file(folder / MANIFEST) and _is_file(folder / WEIGHTS)):
            return None
        try:
            manifest = read_manifest(folder)
        except NotABundleError:
            return None
        if not all(_is_file(folder / name) for name in manifest.files):
            return None
        return (folder, manifest) if manifest.digest == digest else None

    @contextmanager
    def make(self, digest: str, owner: str, waiting: Callable[[], None] = lambda: None) -> Iterator[Partial | None]:
        """A folder to make a bundle in; None when another maker finished it.

        Afterwards it is published or gone, or, where trying again may help, set aside with what is in it for the next
        maker. Waits while another maker shows life, and tells `waiting` so. Raises StorageError where the volume cannot
        be written to.
        """
        folder = self.bundles / f".partial-{digest}-{_checked(owner)}"
        with storage_errors(self.root):
            _own_folder(self.bundles)
            self._remove_forgotten(digest)
            ours = take(folder, lambda: self._makers(digest), lambda: self.find(digest) is not None, waiting)
        if not ours:
            yield None
            return
        try:
            with heartbeat(folder):
                with storage_errors(self.root):
                    inherit(folder, digest)
                yield Partial(self, folder, digest)
        except BaseException as error:
            if _may_go_on(error):
                set_aside(folder)
            raise
        finally:
            remove(folder)

    def adopt(self, folder: Path, digest: str) -> Path:
        """Rename a finished folder to its bundle's name; another maker's equal bundle is as good."""
        target = self.bundles / digest
        if target.is_symlink() or (target.exists() and not self.find(digest)):
            remove(target)  # damaged, or no bundle at all
        try:
            folder.rename(target)
        except OSError:
            if not self.find(digest):
                raise
        sync(self.bundles)
        return target

    def attached(self, pod: str) -> tuple[Path, Manifest] | None:
        """The bundle that a pod has been given already."""
        folder = self.pods / _checked(pod)
        link = folder / BUNDLE_LINK
        if self.pods.is_symlink() or folder.is_symlink() or not link.is_symlink():
            return None
        target = os.readlink(link)
        digest = target.rpartition("/")[2]
        return self.find(digest) if target == link_to(digest) else None

    def use(self, digest: str) -> tuple[Path, Manifest] | None:
        """As `find`, and remember the use: nobody evicts it before there was time to attach it."""
        touch(self.bundles / digest)
        return self.find(digest)

    def attach(
        self, pod: str, digest: str, shim: Path | None, documents: Mapping[str, str] = NO_DOCUMENTS
    ) -> Path | None:
        """Point a pod at a bundle, lay the shim and `documents` by name beside it, and return the pod's folder.

        None when the bundle is not there: it was evicted before the pod's link could show that it is in use.
        """
        touch(self.bundles / digest)
        return self._attach(pod, link_to(digest), shim, documents)

    def attach_elsewhere(
        self, pod: str, folder: Path, shim: Path | None, documents: Mapping[str, str] = NO_DOCUMENTS
    ) -> Path | None:
        """As `attach`, for a bundle that is on another volume, at a path that the pod's containers have as well."""
        return self._attach(pod, str(folder), shim, documents)

    def attach_absence(
        self, pod: str, absence: Absence, shim: Path | None, documents: Mapping[str, str] = NO_DOCUMENTS
    ) -> Path:
        """Tell a pod why it has no bundle, lay shim and `documents` beside that, and return the pod's folder."""
        return self._lay_out(pod, shim, absence.write, documents)

    def make_room(self, size: int = 0) -> None:
        """Let go what the policy does not keep, so that a bundle of `size` bytes fits as well."""
        if self.policy:
            keep_within(self.root, self.policy, size)

    def _attach(self, pod: str, link: str, shim: Path | None, documents: Mapping[str, str]) -> Path | None:
        folder = self._lay_out(pod, shim, lambda place: place.symlink_to(link), documents)
        touch(self.bundles)  # so that an eviction on another machine is seen
        return folder if _is_file(folder / BUNDLE_LINK / MANIFEST) else None

    def _lay_out(self, pod: str, shim: Path | None, make: Callable[[Path], None], documents: Mapping[str, str]) -> Path:
        """Make the pod's folder, all at once, with what `make` puts in the bundle's place."""
        folder, scratch = self.pods / _checked(pod), self.pods / f".partial-{pod}"
        with storage_errors(self.root):
            _own_folder(self.pods)
            remove(scratch)
            scratch.mkdir()
            make(scratch / BUNDLE_LINK)
            for name, text in documents.items():
                (scratch / name).write_text(text)
            if shim is not None:
                compiled = shutil.ignore_patterns("__pycache__")  # it would count as out of date at its new place
                shutil.copytree(shim, scratch / SHIM_FOLDER, copy_function=shutil.copyfile, ignore=compiled)
            remove(folder)
            scratch.rename(folder)
            sync(self.pods)
        return folder

    def _makers(self, digest: str) -> list[Path]:
        return list(self.bundles.glob(f".partial-{digest}-*"))

    def _remove_forgotten(self, digest: str) -> None:
        for left in unfinished_on(self.root):
            if left.digest != digest and left.forgotten(time.time()):
                bury(left.folder)


def _may_go_on(error: BaseException) -> bool:
    """Whether what is written is right as far as it goes, and another attempt may get to the end."""
    if isinstance(error, (CheckpointNotFoundError, SourceChangedError)):
        return False
    return isinstance(error, (CheckpointSourceError, TruncatedError)) or not isinstance(error, Exception)


def _is_file(path: Path) -> bool:
    try:
        return stat.S_ISREG(path.lstat().st_mode)
    except OSError:
        return False


def _own_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if not stat.S_ISDIR(folder.lstat().st_mode):
        raise StorageError(f"{folder} is a link, not a folder", remedy="Remove it from the volume")


def _checked(name: str) -> str:
    if not _PLAIN_NAME.match(name):
        raise CheckpointConfigError(f"{name!r:.80} is no plain name", remedy="Set PREHEAT_POD_UID to metadata.uid")
    return name


def _write_file(path: Path, content: Iterable[bytes]) -> None:
    scratch = path.with_name(f".{path.name}.partial")
    fd = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    with open(fd, "wb") as file:
        file.writelines(content)
        file.flush()
        os.fsync(fd)
    scratch.rename(path)
