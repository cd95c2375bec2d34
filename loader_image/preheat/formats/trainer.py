"""What Transformers' Trainer and Accelerate save beside the weights: all that a training needs to go on.

A folder is theirs when the optimizer's file is in it. Of its files those are read whose meaning is known: not the
arguments of the training, samplers and what scripts register, which are pickled objects.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from preheat.blob import Folder
from preheat.formats.companions import present, read_json
from preheat.formats.inert.values import Global, Node
from preheat.formats.pytorch.checkpoint import uninterpreted
from preheat.formats.pytorch.files import read_file
from preheat.index import Index
from preheat.joined_blob import Member

#: Keys of the state: the Trainer's own, in JSON; the state of each process's random generators; the gradients' scale.
TRAINER_STATE, RANDOM_STATES, SCALER = "trainer_state", "random_states", "scaler"

MAX_STATE = 64 << 20  # bytes of the Trainer's own state, which has an entry for each time that it logged

_LISTS = frozenset(("optimizers", "lr_schedulers", RANDOM_STATES))  # keys under which there may be several
_NUMBER = re.compile(r"_\d+(?=\.)")
_RECONSTRUCT = tuple(Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core"))
_ENCODE = Global("_codecs", "encode")


@dataclass(frozen=True)
class Layout:
    """Names of files, the optimizer's first, with the keys of the state; `numbered` ones count from a first number."""

    name: str
    single: Mapping[str, str]
    numbered: Mapping[str, int]
    keys: Mapping[str, str]  # of the numbered


LAYOUTS = (
    Layout(
        "transformers",
        {
            "optimizer.pt": "optimizer",
            "scheduler.pt": "lr_scheduler",
            "scaler.pt": SCALER,
            "trainer_state.json": TRAINER_STATE,
            "rng_state.pth": RANDOM_STATES,
        },
        {"rng_state_{}.pth": 0},
        {"rng_state_{}.pth": RANDOM_STATES},
    ),
    Layout(
        "accelerate",
        {"optimizer.bin": "optimizers", "scheduler.bin": "lr_schedulers", "scaler.pt": SCALER},
        {"optimizer_{}.bin": 1, "scheduler_{}.bin": 1, "random_states_{}.pkl": 0},
        {
            "optimizer_{}.bin": "optimizers",
            "scheduler_{}.bin": "lr_schedulers",
            "random_states_{}.pkl": RANDOM_STATES,
        },
    ),
)


def members(folder: Folder) -> list[str]:
    """The files that are there; none in a folder of weights alone."""
    for layout in LAYOUTS:
        optimizer, *others = layout.single
        if present(folder, [optimizer]):
            numbered = [name for pattern in layout.numbered.items() for name in _numbered(folder, *pattern)]
            return [optimizer, *present(folder, others), *numbered]
    return []


def with_state(index: Index, files: Sequence[Member]) -> Index:
    """The index of the weights, with what these files hold as state; raises a CheckpointLoadError for a bad one."""
    layout = next(layout for layout in LAYOUTS if files[0].name in layout.single)
    before = sum(file.blob.fetched for file in files)
    state, opaque = dict(index.state), set[Global]()
    for file in files:
        key = layout.single.get(file.name) or layout.keys[_NUMBER.sub("_{}", file.name)]
        value = _read(file, opaque)
        if key in _LISTS:
            state.setdefault(key, []).append(_with_numbers(value) if key == RANDOM_STATES else value)
        else:
            state[key] = value
    trainer_state = state.get(TRAINER_STATE)
    if isinstance(trainer_state, dict) and type(trainer_state.get("global_step")) is int:
        state["global_step"] = trainer_state["global_step"]
    fetched = sum(file.blob.fetched for file in files) - before
    names = tuple(sorted({*index.opaque, *uninterpreted(opaque)}))
    return replace(index, layout=layout.name, state=state, opaque=names, metadata_bytes=index.metadata_bytes + fetched)


def _read(file: Member, opaque: set[Global]) -> Any:
    if file.name.endswith(".json"):
        return read_json(file.blob, MAX_STATE)
    pickle = read_file(file)
    opaque |= pickle.opaque - {*_RECONSTRUCT, _ENCODE, Global("numpy", "ndarray"), Global("numpy", "dtype")}
    return pickle.value


def _numbered(folder: Folder, pattern: str, first: int) -> Iterator[str]:
    for number in count(first):
        if not present(folder, [name := pattern.format(number)]):
            return
        yield name


def _with_numbers(tree: Any) -> Any:
    """Random states with numpy's array, one of 624 numbers, as a list; what is anything else stays as it is."""
    if isinstance(tree, Mapping):
        return {key: _with_numbers(value) for key, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(map(_with_numbers, tree))
    if not isinstance(tree, Node) or tree.callee not in _RECONSTRUCT:
        return tree
    match tree.state:
        case (_, (int(length),), Node(args=("u4", *_), state=(_, "<", *_)), False, values):
            content = _bytes(values)
            if content is not None and len(content) == 4 * length:
                return array("I", content).tolist()
    return tree


def _bytes(values: Any) -> bytes | None:
    """Bytes, which pickles of protocol 2 hold as a text."""
    if isinstance(values, Node) and values.callee == _ENCODE:
        match values.args:
            case (str(text), "latin1"):
                return text.encode("latin1")
    return values if isinstance(values, bytes) else None
