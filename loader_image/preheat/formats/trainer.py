"""What Transformers' Trainer and Accelerate save beside the weights: all that a training needs to go on.

A folder is theirs when the optimizer's file is in it. Of its files those are read whose meaning is known: not the
arguments of the training, samplers and what scripts register, which are pickled objects.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

from preheat.blob import Folder
from preheat.errors import CheckpointLoadError, CheckpointValidationError
from preheat.formats.companions import present, read_json
from preheat.formats.inert.values import Global, Node
from preheat.formats.pytorch.checkpoint import uninterpreted
from preheat.formats.pytorch.files import read_file
from preheat.index import Index
from preheat.joined_blob import Member

#: Keys of the state: the Trainer's own, in JSON; the state of each process's random generators; the gradients' scale.
TRAINER_STATE, RANDOM_STATES, SCALER = "trainer_state", "random_states", "scaler"

THREADS = 8
MAX_STATE = 64 << 20  # bytes of the Trainer's own state, which has an entry for each time that it logged

_LISTS = frozenset(("optimizers", "lr_schedulers", RANDOM_STATES))  # keys under which there may be several
_NUMBER = re.compile(r"_\d+(?=\.)")
_ENCODE = Global("_codecs", "encode")
_NUMPY = frozenset(  # the names by which an array of numpy's is described
    (
        Global("numpy.core.multiarray", "_reconstruct"),
        Global("numpy._core.multiarray", "_reconstruct"),
        Global("numpy", "ndarray"),
        Global("numpy", "dtype"),
        _ENCODE,
    )
)


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
    """The index of the weights, with what these files hold as state.

    One that cannot be read is a node that says why: only a warm start needs it.
    """
    layout = next(layout for layout in LAYOUTS if files[0].name in layout.single)
    before = sum(file.blob.fetched for file in files)
    with ThreadPoolExecutor(THREADS if files[0].blob.remote else 1, thread_name_prefix="preheat") as pool:
        found = list(pool.map(_read, files))
    state: dict[str, Any] = {}
    for file, (value, _) in zip(files, found, strict=True):
        key = layout.single.get(file.name) or layout.keys[_NUMBER.sub("_{}", file.name)]
        if key in _LISTS:
            state.setdefault(key, []).append(_with_numbers(value) if key == RANDOM_STATES else value)
        else:
            state[key] = value
    progress = state.get(TRAINER_STATE)
    if isinstance(progress, dict) and type(progress.get("global_step")) is int:
        state["global_step"] = progress["global_step"]
    opaque = uninterpreted({name for _, names in found for name in names} - _NUMPY)
    return replace(
        index,
        layout=layout.name,
        state={**index.state, **state},
        opaque=tuple(sorted({*index.opaque, *opaque})),
        metadata_bytes=index.metadata_bytes + sum(file.blob.fetched for file in files) - before,
    )


def _read(file: Member) -> tuple[Any, frozenset[Global]]:
    """What is in a file, and the classes in it that mean nothing to Preheat."""
    try:
        if file.name.endswith(".json"):
            return read_json(file.blob, MAX_STATE), frozenset()
        pickle = read_file(file)
    except (CheckpointLoadError, CheckpointValidationError) as error:
        return Node(Global("unread", file.name), refusal=f"cannot be read: {error.args[0]}"), frozenset()
    return pickle.value, pickle.opaque


def _numbered(folder: Folder, pattern: str, first: int) -> Iterator[str]:
    for number in count(first):
        if not present(folder, [name := pattern.format(number)]):
            return
        yield name


def _with_numbers(states: Any) -> Any:
    """The states with numpy's, which holds an array, as plain values; what is anything else stays as it is."""
    if not isinstance(states, dict):
        return states
    return {key: _of_numpy(state) if key in ("numpy", "numpy_random_seed") else state for key, state in states.items()}


def _of_numpy(state: Any) -> Any:
    match state:
        case (str(kind), Node(callee=callee, state=(_, (624,), dtype, False, values)), *rest) if callee in _NUMPY:
            little = isinstance(dtype, Node) and dtype.args[:1] == ("u4",) and dtype.state[1:2] == ("<",)
            content = _bytes(values)
            if little and content is not None and len(content) == 4 * 624:
                return (kind, array("I", content).tolist(), *rest)
    return state


def _bytes(values: Any) -> bytes | None:
    """Bytes, which pickles of protocol 2 hold as a text."""
    match values:
        case Node(callee=callee, args=(str(text), "latin1")) if callee == _ENCODE and all(ord(c) < 256 for c in text):
            return text.encode("latin1")
    return values if isinstance(values, bytes) else None
