"""The checkpoints in a place with what is known of them: what points to them, what uses them, how good they are."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from preheat.blob import Patience
from preheat.bundle.manifest import MANIFEST, Manifest
from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointNotFoundError, NotABundleError
from preheat.resume.decision import Candidate, counts
from preheat.resume.starts import Starts
from preheat.runs.checkpoint import Checkpoint, Pointer
from preheat.runs.layouts import AUTO, find, named_by
from preheat.runs.listing import Listing
from preheat.runs.names import BEST, LAST, LATEST, checked_name, metric_of
from preheat.runs.order import newest_first
from preheat.runs.position import Position
from preheat.runs.retention import Known
from preheat.sources.local import LocalSource
from preheat.stage import Place
from preheat.uploading.targets import target_of

OWN = "preheat"  # the layout of what Preheat saves


@dataclass(frozen=True)
class Shelf:
    """One listing of a place; the newest checkpoints come first."""

    place: Place
    listing: Listing
    checkpoints: tuple[Checkpoint, ...]
    pointers: tuple[Pointer, ...]
    patience: Patience = field(default_factory=Patience)

    @classmethod
    def look(cls, place: Place, layout: str = AUTO, patience: Patience | None = None) -> Shelf:
        """What is in a place now; raises CheckpointConfigError where nothing can be listed."""
        patience = patience or Patience()
        listing = Listing(place.tree(patience))
        found = find(listing.entries, layout)
        return cls(place, listing, tuple(newest_first(found.checkpoints)), found.pointers, patience)

    @cached_property
    def pointed(self) -> dict[str, tuple[str, ...]]:
        """By a checkpoint's path, what points to it; raises CheckpointLoadError for a pointer that makes no sense."""
        found: dict[str, list[str]] = {}
        for pointer in self.pointers:
            name = self._named_by(pointer)
            for each in self.checkpoints:
                if each.name == name and each.home == pointer.home and each.layout == pointer.layout:
                    found.setdefault(each.path, []).append(pointer.tag)
        for path, link in self._links():
            found.setdefault(path, []).append(link)
        return {path: tuple(sorted(tags)) for path, tags in found.items()}

    def manifest(self, checkpoint: Checkpoint) -> Manifest | None:
        """What Preheat wrote down of a checkpoint; None for another program's, or for one that is not complete."""
        if checkpoint.incomplete or checkpoint.layout != OWN:
            return None
        with suppress(NotABundleError, CheckpointNotFoundError):
            return Manifest.from_json(self.listing.read(f"{checkpoint.folder}/{MANIFEST}"))
        return None

    def metrics(self, checkpoint: Checkpoint) -> dict[str, float]:
        """How good it is, as its name or its manifest says."""
        manifest = self.manifest(checkpoint)
        saved = manifest.saved.metrics if manifest and manifest.saved else {}
        return {**checkpoint.metrics, **{name: value for name, value in saved.items() if value is not None}}

    def known(self, *, metrics: bool) -> Known:
        """What retention has to know; metrics are read one by one, so only where a rule asks for them."""
        doubted = dict(self._doubted())
        return Known(
            pointed=self.pointed,
            used=doubted,
            doubted=doubted.keys(),
            metrics={each.path: self.metrics(each) for each in self.checkpoints} if metrics else {},
            now=time.time(),
        )

    def one(self, name: str) -> Checkpoint:
        """The checkpoint that a person means by its name, its path, or what points to it."""
        wanted = name.rstrip("/")
        found = [each for each in self.checkpoints if wanted in (each.name, each.path.rstrip("/"))]
        found = found or [each for each in self.checkpoints if wanted in self.pointed.get(each.path, ())]
        if len(found) == 1:
            return found[0]
        if found:
            paths = ", ".join(each.path for each in found[:8])
            raise CheckpointConfigError(f"{name!r:.200} may be one of {paths}", remedy="Give its path")
        there = ", ".join(each.path for each in self.checkpoints[:8]) or "none at all"
        raise CheckpointNotFoundError(
            f"{self.listing.uri} has no checkpoint {name!r:.200}", remedy=f"There are: {there}"
        )

    def tag(self, checkpoint: Checkpoint, tag: str) -> str:
        """Let a pointer of that name lead to the checkpoint; answers with the pointer's path."""
        path = _pointer(checkpoint, tag)
        document = json.dumps({"checkpoint": checkpoint.name}, indent=1).encode()
        with closing(target_of(self.place, self.patience)) as target:
            target.write(path, document)
        return path

    def untag(self, checkpoint: Checkpoint, tag: str) -> str:
        """Remove the pointer of that name; answers with its path."""
        path = _pointer(checkpoint, tag)
        if not any(pointer.entry.path == path for pointer in self.pointers):
            raise CheckpointNotFoundError(
                f"{self.listing.uri} has no {path}", remedy="`preheat ls` shows what there is"
            )
        with closing(target_of(self.place, self.patience)) as target:
            target.remove(path)
        return path

    def _named_by(self, pointer: Pointer) -> str:
        try:
            return named_by(self.listing, pointer)
        except CheckpointNotFoundError:  # removed while we look
            return ""
        except CheckpointLoadError:
            if pointer.layout == OWN:  # it protects something, and nobody knows what
                raise
            return ""

    def _links(self) -> Iterator[tuple[str, str]]:
        """Checkpoints that a link leads to, such as Lightning's last.ckpt: without them it would lead nowhere."""
        if not isinstance(self.place, LocalSource):
            return
        root = Path(self.place.uri)
        paths = [each.path.rstrip("/") for each in self.checkpoints]
        for link in [path for path in paths if os.path.islink(root / path)]:
            meant = os.path.realpath(root / link)
            yield from (
                (f"{each}/" if os.path.isdir(root / each) else each, link)
                for each in paths
                if each != link and os.path.realpath(root / each) == meant
            )

    def _doubted(self) -> Iterator[tuple[str, str]]:
        """Checkpoints that trainings began from and have not come past: they are at it, or have died of it."""
        if not isinstance(self.place, LocalSource):
            return
        homes = {Path(each.home) for each in self.checkpoints}
        for folder in sorted({Path(), *homes, *(above for home in homes for above in home.parents)}):
            below = [each for each in self.checkpoints if Path(each.home).is_relative_to(folder)]
            candidates = [Candidate(each.name, each.modified, each.position) for each in below]
            for start in Starts(Path(self.place.uri) / folder).read():
                if counts(start, candidates):
                    yield from ((each.path, f"training {start.id}") for each in below if each.name == start.checkpoint)


def _pointer(checkpoint: Checkpoint, tag: str) -> str:
    """The path of a person's pointer to a checkpoint; raises CheckpointConfigError for a name that is not theirs."""
    if checkpoint.layout != OWN:
        raise CheckpointConfigError(
            f"{checkpoint.path} was not saved by Preheat, and what saved it ({checkpoint.layout}) knows no such tags",
            remedy="Copy the checkpoint to another name",
        )
    if tag in (LATEST, LAST, BEST) or metric_of(tag) or Position.parse(tag):
        raise CheckpointConfigError(f"{tag!r:.80} is a name that trainings give", remedy="Choose another")
    name = f"{checked_name(checkpoint.model, tag, checkpoint.info)}.json"
    return f"{checkpoint.home}/{name}" if checkpoint.home else name
