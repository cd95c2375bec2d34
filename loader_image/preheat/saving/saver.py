"""Saves what all processes of a training have: one of them writes, the others help to gather, all know how it went."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from pathlib import Path
from time import time
from typing import Any

import torch

from preheat.bundle.manifest import Saved
from preheat.bundle.storage import storage_errors
from preheat.errors import CheckpointError
from preheat.formats.training_state import parts_of
from preheat.ranks import Ranks, group, present
from preheat.runs.names import LATEST
from preheat.runs.removal import prune
from preheat.runs.retention import Retention
from preheat.runs.shelf import OWN
from preheat.saving import best
from preheat.saving.background import Background
from preheat.saving.gathering import Gathering
from preheat.saving.place import Place
from preheat.saving.pointers import read_pointer, write_pointer
from preheat.saving.shards import alike, shards_of
from preheat.saving.sharing import Sharing
from preheat.saving.snapshot import Snapshot
from preheat.saving.staging import Staging
from preheat.saving.state import spelled
from preheat.saving.weights import Weights
from preheat.sources.local import LocalSource
from preheat.strategies import random_states
from preheat.strategies.collector import collector_paused

log = logging.getLogger(__name__)

#: Makes the training state of all that a training has, given the random states of its processes.
MakeState = Callable[[list[Any]], Mapping[str, Any]]


@dataclass(frozen=True)
class Wish:
    """What is to be saved, and which pointers are to name it."""

    place: Place
    weights: Weights
    tree: MakeState | None = None  # None: weights alone
    plain: Sequence[str] | None = None  # entries of the state that may hold no objects; None: all
    metrics: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, str] = field(default_factory=dict)  # mode by metric
    tolerances: Sequence[int] = ()
    tags: Sequence[str] = ()
    random_states: bool = True
    documents: Mapping[str, bytes] = field(default_factory=dict)
    keep: Retention | None = None  # what stays of the checkpoints that are there then; None: all


class Saver:
    """The saves of one process, one after the other."""

    def __init__(self) -> None:
        self._background = Background()
        self._staging = Staging()

    def save(self, make: Callable[[], Sequence[Wish]], *, wait: bool, sharded: bool = False) -> list[Path]:
        """Save what is made; without `wait` the writing goes on when it returns.

        The first of several processes writes, or, if `sharded`, each what it has. Raises on all what went wrong on one.
        """
        ranks = present("preheat.save", "save")
        with _together(ranks, "open"):
            self._background.finish()
            wishes = make()
            drawn = any(wish.random_states and wish.tree for wish in wishes)
            if ranks and drawn:
                ranks.tell("random", random_states.packed(random_states.taken()))
        with collector_paused(), _together(ranks, "gather") as facts:
            states = _random_states(ranks) if drawn else []
            snapshots = [_snapshot(wish, states) for wish in wishes]
            checkpoints = list(zip(wishes, snapshots, strict=True))
            if ranks and sharded:
                facts["tensors"] = _told([alike(each.files) for each in snapshots])
        if ranks and sharded:
            self._share(ranks, checkpoints, wait=wait)
        else:
            self._gather(ranks, checkpoints, wait=wait)
        return [snapshot.folder for snapshot in snapshots]

    def finish(self) -> None:
        """Wait until what is on its way is on the disk; raises what went wrong with it."""
        self._background.finish()

    def _gather(self, ranks: Ranks | None, checkpoints: Sequence[tuple[Wish, Snapshot]], *, wait: bool) -> None:
        """Let the first process write what all bring."""
        gathering = Gathering([tensors for _, snapshot in checkpoints for tensors in snapshot.files])
        with _together(ranks, "save"):
            try:
                if _writes():
                    self._write(checkpoints, gathering, wait=wait)
            finally:
                gathering.finish()
        if ranks:
            ranks.leave("open", "gather", "save")

    def _share(self, ranks: Ranks, checkpoints: Sequence[tuple[Wish, Snapshot]], *, wait: bool) -> None:
        """Let each process write what it has."""
        snapshots = [snapshot for _, snapshot in checkpoints]
        with ranks.together("copy"):
            shards = [shards_of(each.files, ranks.rank) for each in snapshots]
            gathering = Gathering([shard.boxes for files in shards for shard in files])
            bring = gathering.bring if wait else self._staging.copy(gathering.all())
        sharing = Sharing(ranks, snapshots, shards)

        def finish() -> None:
            for checkpoint in checkpoints:
                _point(*checkpoint)
            _let_go(checkpoints)

        if wait:
            sharing.write(bring, finish)
        else:
            self._background.start(lambda: sharing.write(bring, finish))

    def _write(self, checkpoints: Sequence[tuple[Wish, Snapshot]], gathering: Gathering, *, wait: bool) -> None:
        def write(bring: Callable[[str], torch.Tensor]) -> None:
            for wish, snapshot in checkpoints:
                with storage_errors(wish.place.home):
                    snapshot.write(bring)
                    _point(wish, snapshot)
            _let_go(checkpoints)

        if wait:
            write(gathering.bring)
            return
        bring = self._staging.copy(gathering.all())
        self._background.start(lambda: write(bring))


def _together(ranks: Ranks | None, step: str) -> AbstractContextManager[Any]:
    return ranks.together(step) if ranks else nullcontext()


def _writes() -> bool:
    """Whether this process is the one that writes."""
    return not (found := group()) or found.get_rank() == 0


def _snapshot(wish: Wish, states: list[Any]) -> Snapshot:
    place, at = wish.place, wish.place.position
    tree = wish.tree(states if wish.random_states else []) if wish.tree else {}
    progress = {key: tree[key] for key in ("epoch", "global_step", "sample") if key in tree}
    state = spelled(tree, wish.plain) if wish.tree else None
    facts = Saved(
        *(place.model, place.info, place.part, place.run_id, place.stage, at.epoch, at.update, at.sample),
        metrics={name: value if isfinite(value) else None for name, value in wish.metrics.items()},
        training_state=bool(parts_of(tree).optimizers),
        time=time(),
    )
    return Snapshot(place.folder, wish.weights, facts, state, progress, wish.documents)


def _random_states(ranks: Ranks | None) -> list[Any]:
    """Those of all processes, for the one that writes."""
    if ranks is None:
        return [random_states.taken()]
    return [random_states.unpacked(text) for text in ranks.told("random")] if ranks.rank == 0 else []


def _told(checkpoints: Sequence[Mapping[str, object]]) -> str:
    digest = hashlib.sha256(json.dumps([sorted(each.items()) for each in checkpoints]).encode()).hexdigest()[:16]
    return f"{sum(map(len, checkpoints))} tensors ({digest})"


def _point(wish: Wish, snapshot: Snapshot) -> None:
    """Let the pointers name what was written."""
    place, facts = wish.place, snapshot.facts
    position = {"epoch": facts.epoch, "update": facts.update, "sample": facts.sample}
    named = {"checkpoint": snapshot.folder.name, "position": position, "trainingState": facts.training_state}
    if facts.training_state or not read_pointer(place.pointer(LATEST)).get("trainingState"):
        write_pointer(place.pointer(LATEST), named)
    for tag in wish.tags:
        write_pointer(place.pointer(tag), named)
    for metric, mode in wish.best.items():
        tags = [best.tag_of(metric), *(best.tag_of(metric, each) for each in wish.tolerances)]
        known = {tag: read_pointer(place.pointer(tag)) for tag in tags}
        found = best.moved(known, metric, wish.metrics[metric], mode, wish.tolerances, place.position)
        for tag, pointer in found.items():
            moves = pointer["moves"]
            if moves or "checkpoint" in pointer:
                said = {key: value for key, value in pointer.items() if key != "moves"}
                write_pointer(place.pointer(tag), {**said, **(named if moves else {})})


def _let_go(checkpoints: Sequence[tuple[Wish, Snapshot]]) -> None:
    """Remove what nothing keeps; what is in the way of that costs room, not the training."""
    for home, keep in {wish.place.home: wish.keep for wish, _ in checkpoints if wish.keep}.items():
        try:
            prune(LocalSource(str(home)), keep, OWN)
        except CheckpointError as error:
            log.warning("nothing was removed from %s: %s", home, error)
