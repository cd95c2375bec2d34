"""What `preheat.save` writes: a folder per checkpoint, complete with the manifest in it, and pointers beside them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from preheat.bundle.manifest import MANIFEST, STATE, WEIGHTS
from preheat.formats.saved_shards import kind_of
from preheat.runs.checkpoint import Checkpoint, Found, Pointer
from preheat.runs.layouts.grouping import by_folder, empty_one
from preheat.runs.listing import Entry
from preheat.runs.names import CheckpointName

NAME = "preheat"
SUFFIX = ".json"
ADAPTER = "adapter_model.safetensors"


def find(entries: Sequence[Entry]) -> Found:
    """Folders and pointers whose names are of the grammar, and finished folders of any name.

    Those that are hidden are still being written.
    """
    checkpoints: list[Checkpoint] = []
    pointers: list[Pointer] = []
    for folder, files in by_folder(entries).items():
        called = folder.rpartition("/")[2]
        name = None if called.startswith(".") else CheckpointName.parse(called)
        if name or (_is_finished(files) and not called.startswith(".")):
            checkpoints.append(_checkpoint(folder, called, name or CheckpointName("", called), files))
        else:
            pointers += filter(None, map(_pointer, files))
    return Found(tuple(_with_parts(checkpoints)), tuple(pointers))


def _is_finished(files: Sequence[Entry]) -> bool:
    names = {entry.name for entry in files}
    return MANIFEST in names and (not names.isdisjoint((WEIGHTS, ADAPTER)) or any(map(kind_of, names)))


def _with_parts(checkpoints: Sequence[Checkpoint]) -> Iterator[Checkpoint]:
    """The checkpoints, with those marked whose model is a part of another one in the same folder: `upt.encoder`."""
    models = {(each.home, each.model) for each in checkpoints}
    for each in checkpoints:
        whole, dot, _ = each.model.rpartition(".")
        yield replace(each, part=True) if dot and (each.home, whole) in models else each


def named_by(content: bytes, metric: str | None = None) -> str:
    """The checkpoint that a pointer names; its tag has said by which metric."""
    name = json.loads(content)["checkpoint"]
    if not isinstance(name, str):
        raise TypeError("a name is a text")
    return name


def _checkpoint(folder: str, called: str, name: CheckpointName, files: Sequence[Entry]) -> Checkpoint:
    present = {entry.name for entry in files}
    missing = "" if MANIFEST in present else f"it has no {MANIFEST}: its saving, or its upload, did not get to its end"
    return Checkpoint(
        layout=NAME,
        name=called,
        files=tuple(files),
        folder=folder,
        is_folder=True,
        model=name.model,
        info=name.info,
        tag=name.tag,
        position=name.position,
        interrupted=name.interrupted,
        training=STATE in present,
        lacks=() if STATE in present else (STATE,),
        incomplete=missing or empty_one(files),
    )


def _pointer(entry: Entry) -> Pointer | None:
    if not entry.name.endswith(SUFFIX) or entry.name.startswith("."):
        return None
    name = CheckpointName.parse(entry.name.removesuffix(SUFFIX))
    return Pointer(NAME, entry, name.tag, name.model, name.info) if name else None
