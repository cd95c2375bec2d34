"""Folders of Transformers' Trainer: `checkpoint-500/`, complete once the Trainer's own state is in it.

Which one is the best, the Trainer keeps in that state.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from preheat.runs.checkpoint import Checkpoint, Found, Pointer
from preheat.runs.layouts.grouping import by_folder, empty_one
from preheat.runs.listing import Entry
from preheat.runs.names import BEST
from preheat.runs.position import Position

NAME = "transformers"
STATE = "trainer_state.json"  # what the Trainer writes last
_FOLDER = re.compile(r"(?:^|/)checkpoint-([0-9]{1,18})$")
_SHARD = re.compile(r"^(.+)-[0-9]+-of-([0-9]{1,6})\.(safetensors|bin)$")
_WEIGHTS = re.compile(r"\.(safetensors|bin)$")
#: Of the Trainer, of Accelerate, of DeepSpeed.
_OPTIMIZERS = ("optimizer.pt", "optimizer.bin", "latest")
_NO_WEIGHTS = ("training_args.bin", "optimizer.bin", "scheduler.bin")


def find(entries: Sequence[Entry]) -> Found:
    """Folders called checkpoint-N; of those with a state, the newest says which is the best."""
    folders = by_folder(entries)
    numbered = {folder: int(found[1]) for folder in folders if (found := _FOLDER.search(folder))}
    checkpoints = tuple(_checkpoint(folder, step, folders[folder]) for folder, step in numbered.items())
    homes: dict[str, tuple[int, Entry]] = {}
    for folder, step in numbered.items():
        state = next((entry for entry in folders[folder] if entry.name == STATE and entry.size), None)
        home = folder.rpartition("/")[0]
        if state and step >= homes.get(home, (0, state))[0]:
            homes[home] = step, state
    return Found(checkpoints, tuple(Pointer(NAME, state, BEST, beside=home) for home, (_, state) in homes.items()))


def named_by(content: bytes, metric: str | None = None) -> str:
    """The checkpoint that the Trainer's state calls the best; the path in it is that of the machine that trained."""
    if metric:
        raise ValueError("the Trainer does not keep by which metric it chose the best: select best")
    best = json.loads(content)["best_model_checkpoint"]
    if not isinstance(best, str):
        raise TypeError("no best checkpoint was kept: train with load_best_model_at_end and metric_for_best_model")
    return re.split(r"[/\\]", best.rstrip("/\\"))[-1]


def _checkpoint(folder: str, step: int, files: Sequence[Entry]) -> Checkpoint:
    present = {entry.name for entry in files}
    return Checkpoint(
        layout=NAME,
        name=folder.rpartition("/")[2],
        files=tuple(files),
        folder=folder,
        is_folder=True,
        position=Position(update=step),
        training=not present.isdisjoint(_OPTIMIZERS),
        lacks=() if present.intersection(_OPTIMIZERS) else _OPTIMIZERS[:1],
        incomplete=_incomplete(files, present),
    )


def _incomplete(files: Sequence[Entry], present: set[str]) -> str:
    if STATE not in present:
        return f"it has no {STATE}, which the Trainer writes last"
    weights = {name for name in present if _WEIGHTS.search(name) and name not in _NO_WEIGHTS}
    shards = [found for name in weights if (found := _SHARD.match(name))]
    for stem, count, suffix in dict.fromkeys(found.groups() for found in shards):
        there = sum(found.groups() == (stem, count, suffix) for found in shards)
        if there < int(count):
            return f"{there} of {int(count)} files {stem}-*.{suffix} are there"
    if not weights and "latest" not in present:
        return "it has no weights"
    return empty_one([entry for entry in files if entry.name in weights or entry.name in (STATE, *_OPTIMIZERS)])
