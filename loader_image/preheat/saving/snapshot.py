"""What one checkpoint holds, and how its folder is written."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from preheat.bundle.manifest import (
    MANIFEST,
    STATE,
    STATE_TENSORS,
    WEIGHTS,
    Manifest,
    Pipeline,
    Saved,
    SourceFacts,
    TensorFacts,
    Totals,
)
from preheat.formats import adapters
from preheat.formats.json_state import to_json
from preheat.formats.saved import ADAPTERS, LAYOUT
from preheat.formats.saved_shards import MODEL, kind_of
from preheat.saving.appearing import appearing
from preheat.saving.file import Written, write_tensors
from preheat.saving.gathering import declared
from preheat.saving.state import State
from preheat.saving.weights import Weights
from preheat.transfer.checksum import crc32

Bring = Callable[[str], torch.Tensor]


@dataclass(frozen=True)
class Snapshot:
    """A checkpoint that is to be written; until its tensors are brought they are the training's own."""

    folder: Path
    weights: Weights
    facts: Saved
    state: State | None = None
    progress: Mapping[str, Any] = field(default_factory=dict)  # for the manifest
    documents: Mapping[str, bytes] = field(default_factory=dict)  # further files, such as an adapter's configuration

    @property
    def files(self) -> list[Mapping[str, torch.Tensor]]:
        """The tensors of each file, in the order in which they are written."""
        return [self.weights.tensors, *([self.state.tensors] if self.state and self.state.tensors else [])]

    def write(self, bring: Bring) -> Path:
        """Make the folder, which is there when it is complete, and on the disk; raises OSError and StorageError."""
        began = time.monotonic()
        names = (ADAPTERS if adapters.CONFIG in self.documents else WEIGHTS, STATE_TENSORS)
        with appearing(self.folder) as scratch:
            files = zip(names, self.files, strict=False)
            written = {name: write_tensors(scratch / name, declared(tensors), bring) for name, tensors in files}
            self.complete(scratch, written, began)
        return self.folder

    def complete(self, folder: Path, written: Mapping[str, Written], began: float) -> None:
        """Write to a folder, which has the files of tensors, all that is missing; the manifest comes last."""
        files = {**written, **{name: _write(folder / name, document) for name, document in self.documents.items()}}
        if self.state:
            document = json.dumps(self.state.document, separators=(",", ":"), allow_nan=False).encode()
            files[STATE] = _write(folder / STATE, document)
        manifest = replace(self._manifest(files), seconds={"total": round(time.monotonic() - began, 3)})
        _write(folder / MANIFEST, manifest.to_json().encode())

    def _manifest(self, files: Mapping[str, Written]) -> Manifest:
        whole = files.get(WEIGHTS) or files.get(ADAPTERS)
        shards = {name: each for name, each in files.items() if kind_of(name)}
        tensors = {
            name: TensorFacts(dtype, shape, whole.checksums[name] if whole else None)
            for name, (dtype, shape) in declared(self.weights.tensors).items()
        }
        size = whole.size if whole else sum(each.size for name, each in shards.items() if kind_of(name) == MODEL)
        digest, every = _digest(files), self.weights.tensors.values()
        totals = Totals(len(tensors), sum(t.numel() for t in every), sum(t.numel() * t.itemsize for t in every), 0)
        return Manifest(
            digest=digest,
            pipeline=Pipeline(),
            source=SourceFacts(str(self.folder), f"saved:{digest}", size, "safetensors", LAYOUT),
            files={name: written.size for name, written in files.items()},
            tensors=tensors,
            aliases=self.weights.aliases,
            totals=totals,
            state=to_json(dict(self.progress)),
            stages=self._stages(),
            checksums={name: written.checksum for name, written in files.items()},
            state_checksums=files[STATE_TENSORS].checksums if STATE_TENSORS in files else {},
            shard_checksums={name: each.checksums for name, each in shards.items()},
            saved=self.facts,
        )

    def _stages(self) -> tuple[Mapping[str, Any], ...]:
        """How a process takes it that is given the folder as its bundle."""
        if self.facts.training_state:
            return ({"warmStart": {}},)
        return ({"transferLearning": {}} if self.facts.part else {"weightsOnly": {}},)


def _write(path: Path, content: bytes) -> Written:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return Written(len(content), crc32(content))


def _digest(files: Mapping[str, Written]) -> str:
    """What tells this checkpoint's contents from another's."""
    facts = [[name, each.size, each.checksum, sorted(each.checksums.items())] for name, each in files.items()]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]
