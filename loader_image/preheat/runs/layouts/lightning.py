"""Files of Lightning's ModelCheckpoint, Anemoi's among them: `epoch=3-step=400.ckpt`, `last.ckpt`.

Sharded ones are folders of that name. Anemoi writes, beside each, one for inference: a pickled model without a
training's state. Which is the best, and by what, ModelCheckpoint keeps in every file that it writes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from preheat.runs.checkpoint import Checkpoint, Found, Pointer
from preheat.runs.layouts.grouping import below, by_folder, empty_one
from preheat.runs.listing import Entry
from preheat.runs.names import BEST, LAST
from preheat.runs.position import Position

NAME = "lightning"
SUFFIX = ".ckpt"
_INFERENCE = "inference-"
_VERSION = re.compile(r"-v[0-9]{1,9}$")
#: `epoch=3`, or as Anemoi writes it `epoch_003`; before or after it anything else.
_COUNT = re.compile(r"(?:^|[-_.])(epoch|step)[=_]([0-9]{1,18})(?=$|[-_.])")
_METRIC = re.compile(r"(?:^|[-_](?=[A-Za-z]))([A-Za-z][\w/.]*?)=(-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)(?=$|[-_])")
#: What is in the folder of a sharded one when it is finished: of torch.distributed.checkpoint, and of DeepSpeed.
_FINISHED = (".metadata", "latest")


def find(entries: Sequence[Entry]) -> Found:
    """Files and folders that end in .ckpt, whatever they are called."""
    files = [_checkpoint(entry.name, (entry,), entry.folder) for entry in entries if entry.name.endswith(SUFFIX)]
    folders = {folder for folder in _folders(entries) if folder.endswith(SUFFIX)}
    outer = [each for each in files if not any(f"{each.folder}/".startswith(f"{folder}/") for folder in folders)]
    checkpoints = (*outer, *(_sharded(folder, below(entries, folder)) for folder in sorted(folders)))
    newest: dict[str, Checkpoint] = {}
    for each in outer:
        if not each.part and not each.incomplete and each.modified >= newest.get(each.home, each).modified:
            newest[each.home] = each
    return Found(checkpoints, tuple(Pointer(NAME, each.files[0], BEST) for each in newest.values()))


def named_by(state: Any, metric: str | None = None) -> str:
    """The checkpoint that ModelCheckpoint calls the best; of several, the one that monitors the metric."""
    callbacks = state.get("callbacks") if isinstance(state, Mapping) else None
    kept = [each for each in (callbacks or {}).values() if isinstance(each, Mapping) and each.get("best_model_path")]
    monitored = {str(each.get("monitor")).replace("/", "."): str(each["best_model_path"]) for each in kept}
    if metric in monitored or (metric is None and len(monitored) == 1):
        return re.split(r"[/\\]", monitored[metric] if metric else next(iter(monitored.values())))[-1]
    raise ValueError(f"it knows the best by {', '.join(monitored) or 'nothing'}")


def _folders(entries: Sequence[Entry]) -> set[str]:
    """Every folder of a listing that may be a checkpoint, those in others too."""
    found: set[str] = set()
    for path in by_folder(entries):
        parts = path.split("/")
        found |= {"/".join(parts[: at + 1]) for at, part in enumerate(parts) if part.endswith(SUFFIX)}
    return found


def _sharded(folder: str, files: Sequence[Entry]) -> Checkpoint:
    called = folder.rpartition("/")[2]
    present = {entry.path.removeprefix(f"{folder}/") for entry in files}
    unfinished = "" if present.intersection(_FINISHED) else "its folder has no .metadata: it was not finished"
    found = _checkpoint(called, tuple(files), folder)
    return replace(found, is_folder=True, incomplete=unfinished)


def _checkpoint(called: str, files: tuple[Entry, ...], folder: str) -> Checkpoint:
    stem = called.removesuffix(SUFFIX)
    bare = _VERSION.sub("", stem)
    inference = called.startswith(_INFERENCE)
    return Checkpoint(
        layout=NAME,
        name=called,
        files=files,
        folder=folder,
        tag=LAST if bare == LAST else stem,
        position=_position(bare),
        metrics=_metrics(bare),
        part=inference,
        training=False if inference else None,
        incomplete=empty_one(files),
    )


def _position(stem: str) -> Position | None:
    counts = {kind: int(number) for kind, number in _COUNT.findall(stem)}
    return Position(counts.get("epoch"), counts.get("step")) if counts else None


def _metrics(stem: str) -> Mapping[str, float]:
    found = {name.replace("/", "."): float(value) for name, value in _METRIC.findall(stem)}
    return {name: value for name, value in found.items() if name not in ("epoch", "step")}
