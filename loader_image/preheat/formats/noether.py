"""Noether's checkpoints in several files: weights, of a composite model one for each part, optimizers and a trainer.

They are opened together by who has found them; a name alone means the one file.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from preheat.formats.files import read_file
from preheat.formats.pytorch import files as pytorch
from preheat.formats.pytorch.checkpoint import uninterpreted
from preheat.formats.shards import moved
from preheat.formats.trainer import SCALER
from preheat.formats.training_state import is_optimizer
from preheat.index import Index
from preheat.joined_blob import JoinedBlob, Member
from preheat.runs.names import CheckpointName

MODEL, OPTIMIZER, TRAINER = "_model.th", "_optim.th", "_trainer.th"
_NAMES = "param_idx_to_name"
_PROGRESS = {"epoch": "epoch", "update": "global_step"}  # as the trainer calls it, and as a warm start does


def read_index(blob: JoinedBlob) -> Index:
    """The index of all of them; the parts' weights by the names that the composite model gives them."""
    whole = _model_of(blob.uri.rpartition("/")[2])
    weights = [(member, _weights(member)) for member in blob.members if member.name.endswith(MODEL)]
    pickles = [(member, pytorch.read_file(member)) for member in blob.members if not member.name.endswith(MODEL)]
    first = weights[0][1]
    opaque = {name for _, index in weights for name in index.opaque}
    return Index(
        format=first.format,
        layout="noether",
        tensors={_part(each, whole) + name: t for each, index in weights for name, t in index.tensors.items()},
        state={**first.state, **_state([(member, pickle.value) for member, pickle in pickles], whole)},
        opaque=tuple(sorted(opaque.union(*(uninterpreted(pickle.opaque) for _, pickle in pickles)))),
        metadata_bytes=blob.fetched,
    )


def _state(found: Iterable[tuple[Member, Any]], whole: str) -> dict[str, Any]:
    state: dict[str, Any] = {}
    for member, value in found:
        if member.name.endswith(TRAINER):
            state |= _of_trainer(value)
        elif part := _part(member, whole):
            state.setdefault("optimizers", {})[part.rstrip(".")] = _named(value, part)
        else:
            state["optimizer"] = _named(value, "")
    return state


def _named(optimizer: Any, part: str) -> Any:
    """An optimizer's state with the names of its parameters where torch keeps them."""
    names = optimizer.get(_NAMES) if isinstance(optimizer, dict) else None
    if not isinstance(names, dict) or not is_optimizer(optimizer):
        return optimizer
    groups = [_with_names(group, names, part) for group in optimizer["param_groups"]]
    return {**{key: value for key, value in optimizer.items() if key != _NAMES}, "param_groups": groups}


def _with_names(group: Any, names: dict[Any, Any], part: str) -> Any:
    known = isinstance(group, dict) and isinstance(group.get("params"), list) and set(group["params"]) <= names.keys()
    return {**group, "param_names": [f"{part}{names[key]}" for key in group["params"]]} if known else group


def _weights(member: Member) -> Index:
    index = read_file(member.blob)
    state = pytorch.moved(index.state, member.start, member.name)
    return replace(moved(index, member), state=state)


def _of_trainer(said: Any) -> dict[str, Any]:
    """What a warm start knows the trainer's entries as; all of them besides under `trainer`."""
    if not isinstance(said, dict):
        return {}
    at = said.get("training_iteration")
    at = at if isinstance(at, dict) else {}
    progress = {ours: at[theirs] for theirs, ours in _PROGRESS.items() if type(at.get(theirs)) is int}
    scaler = {SCALER: said["grad_scaler"]} if isinstance(said.get("grad_scaler"), dict) else {}
    return {"trainer": said, **progress, **scaler}


def _model_of(called: str) -> str:
    for suffix in (MODEL, OPTIMIZER, TRAINER):
        called = called.removesuffix(suffix)
    name = CheckpointName.parse(called)
    return name.model if name else ""


def _part(member: Member, whole: str) -> str:
    """What comes before the names of a part's weights; nothing for the model itself."""
    model = _model_of(member.name)
    return f"{model.removeprefix(f'{whole}.')}." if model != whole else ""
