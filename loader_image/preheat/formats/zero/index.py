"""DeepSpeed's checkpoint folders: `latest` names the subfolder, in which every rank saved its part.

The weights are the fp32 ones of the optimizer, as DeepSpeed's own script gives them, and those of stage 1 that are not
trained, which it leaves out. Refused: tensor and pipeline parallelism, and experts, whose parts lie in other files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from math import prod
from typing import Any

from preheat.blob import Blob, Folder
from preheat.errors import CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats.companions import present
from preheat.formats.inert.values import Node
from preheat.formats.layouts import LIGHTNING_VERSION, checked_name, split
from preheat.formats.metadata import MetadataReader
from preheat.formats.pytorch import zip_file
from preheat.formats.pytorch.checkpoint import check_tensors, uninterpreted
from preheat.formats.pytorch.files import read_file
from preheat.formats.pytorch.tensors import is_counts
from preheat.formats.zero import optimizer as zero_optimizer
from preheat.formats.zero import partitions
from preheat.index import Index, Tensor
from preheat.joined_blob import JoinedBlob

THREADS = 8
MAX_TAG = 255  # bytes of `latest`
MAX_RANKS = 50_000

_MODEL = "mp_rank_00_model_states.pt"
_OPTIMIZER = "mp_rank_00_optim_states.pt"
_PRECISIONS = ("", "bf16_", "fp16_")  # what names of the optimizer's files may begin with
_TAG = re.compile(r"[^/\\\x00-\x1f]+")
_FLAT = {1: "single_partition_of_fp32_groups", 2: "single_partition_of_fp32_groups", 3: "fp32_flat_groups"}
_INNER = {1: "base_optimizer_state", 2: "base_optimizer_state", 3: "optimizer_state_dict"}
_WEIGHTS = (
    "module", "param_shapes", "buffer_names", "shared_params", "frozen_param_shapes", "frozen_param_fragments",
)  # fmt: skip
_EXPERTS = ("ds_autoep_layers", "autoep_layers")
_RESAVE = "Copy the files of all ranks from the same save"
_CONSOLIDATE = "Run the zero_to_fp32.py that DeepSpeed puts into the folder, and give what it writes"
_WRAPPER = "_forward_module."  # around the module, in files of Lightning before 2.1

Tree = dict[Any, Any]


def members(folder: Folder, entry: Blob) -> Sequence[str]:
    """The files of all ranks: the optimizer's, which hold the weights, then the model's."""
    tag = _tag(entry)
    found = present(folder, [f"{tag}/{precision}zero_pp_rank_0_{_OPTIMIZER}" for precision in _PRECISIONS])
    if not found:
        return [f"{tag}/{_MODEL}"]
    blob = folder.open(found[0])
    try:
        first = _optimizer(zip_file.read_tree(MetadataReader(blob)).value)
    finally:
        blob.close()
    numbers = range(_ranks(first))
    models = [f"zero_pp_rank_{number}_{_MODEL}" for number in numbers] if _stage(first) == 3 else [_MODEL]
    return [
        *(found[0].replace(f"_0_{_OPTIMIZER}", f"_{number}_{_OPTIMIZER}") for number in numbers),
        *(f"{tag}/{model}" for model in models),
    ]


def read_index(blob: JoinedBlob) -> Index:
    """The index of the weights; raises a CheckpointLoadError or CheckpointValidationError where parts do not fit."""
    before = blob.fetched
    files = blob.members[1:]
    with ThreadPoolExecutor(THREADS if blob.remote else 1, thread_name_prefix="preheat") as pool:
        pickles = list(pool.map(read_file, files))
    trees = [(file.name, pickle.value) for file, pickle in zip(files, pickles, strict=True)]
    optimizers = [_optimizer(tree) for name, tree in trees if name.endswith(_OPTIMIZER)]
    models = [_dict(tree, "file") for name, tree in trees if name.endswith(_MODEL)]
    _refuse_parallelism(models[0])
    if optimizers:
        layout, (tensors, rest) = f"zero-{_stage(optimizers[0])}", _consolidated(optimizers, models)
    else:
        layout, (tensors, rest) = "module", split(_part(models[0], "module"))
    state = {key: value for key, value in models[0].items() if key not in _WEIGHTS} | ({"module": rest} if rest else {})
    state |= _optimizer_state(optimizers, _groups(models[0])) if optimizers else {}
    if LIGHTNING_VERSION in models[0]:
        layout, tensors, state = "lightning", _unwrapped(tensors), _as_lightning(state)
    opaque = uninterpreted({name for pickle in pickles for name in pickle.opaque})
    index = Index("deepspeed", layout, tensors, state, opaque, blob.fetched - before)
    check_tensors(index, blob.size)
    return index


def _consolidated(optimizers: Sequence[Tree], models: Sequence[Tree]) -> tuple[dict[str, Tensor], Tree]:
    """The weights in fp32, and what the module has that is no tensor."""
    stage, model = _stage(optimizers[0]), models[0]
    kept, rest = split(_part(model, "module"))
    tensors = {
        name: partitions.in_float32(kept[name])
        for name in _list(model, "buffer_names")
        if _is_name(name) and name in kept
    }
    tensors |= _frozen(stage, models)
    ranks, groups = [_flat(optimizer, _FLAT[stage]) for optimizer in optimizers], _groups(model)
    if len({len(rank) for rank in ranks} | ({len(groups)} if stage < 3 else set())) != 1:
        raise CheckpointValidationError("the ranks have not the same number of groups", remedy=_RESAVE)
    if stage == 3:
        tensors |= partitions.in_shares({name: shape for shapes in groups for name, shape in shapes.items()}, ranks)
    else:
        tensors |= partitions.in_groups(groups, ranks, _paddings(optimizers[0], groups))
    tied = _dict(model.get("shared_params") or {}, "shared_params")
    tensors |= {name: tensors[source] for name, source in tied.items() if _is_name(source) and source in tensors}
    if stage < 3:  # what stage 1 does not train is nowhere else
        tensors |= {name: partitions.in_float32(tensor) for name, tensor in kept.items() if name not in tensors}
    return {checked_name(name): tensor for name, tensor in tensors.items()}, rest


def _optimizer_state(optimizers: Sequence[Tree], groups: Sequence[partitions.Shapes]) -> Tree:
    """The optimizer's state by the names of the weights, and what else each rank has; all of it as it is if need be."""
    stage = _stage(optimizers[0])
    inner = [optimizer.get(_INNER[stage]) for optimizer in optimizers]
    found = zero_optimizer.gathered(stage, inner, groups, _paddings(optimizers[0], groups))
    dropped = {_FLAT[stage], "param_slice_mappings", *([_INNER[stage]] if found else [])}
    ranks = [{key: value for key, value in optimizer.items() if key not in dropped} for optimizer in optimizers]
    return {"zero": ranks} | ({"optimizer": found} if found else {})


def _frozen(stage: int, models: Sequence[Tree]) -> dict[str, Tensor]:
    """The weights that are not trained: whole, or in stage 3 in equal pieces, one in the file of each rank."""
    shapes = _shapes(models[0].get("frozen_param_shapes") or {})
    fragments = [_part(model, "frozen_param_fragments") for model in models] if shapes else []
    found = {}
    for name, shape in shapes.items():
        pieces = [_tensor(fragment.get(name), name) for fragment in fragments]
        row = partitions.Row(pieces)
        if row.elements < prod(shape) or (stage < 3 and pieces[0].shape != shape):
            raise CheckpointValidationError(f"tensor {name[:80]!r} has {row.elements} elements, not {shape}")
        found[name] = partitions.whole(name, shape, row.pieces(0, prod(shape)))
    return found


def _as_lightning(state: Tree) -> Tree:
    """The state with the optimizer where Lightning has it."""
    optimizer = state.pop("optimizer", None)
    if isinstance(optimizer, dict):
        options = [
            {**group, "params": list(_unwrapped(dict.fromkeys(group["params"])))} for group in optimizer["param_groups"]
        ]
        state["optimizer_states"] = [{"state": _unwrapped(optimizer["state"]), "param_groups": options}]
    return state


def _unwrapped(entries: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removeprefix(_WRAPPER): value for name, value in entries.items()}


def _tag(entry: Blob) -> str:
    tag = entry.read(0, min(entry.size, MAX_TAG)).decode(errors="replace").strip()
    if not _TAG.fullmatch(tag) or tag in (".", ".."):
        raise CheckpointLoadError(f"{entry.uri} holds no name of a folder: {tag!r:.80}")
    return tag


def _optimizer(tree: Any) -> Tree:
    return _part(_dict(tree, "file"), "optimizer_state_dict")


def _stage(optimizer: Tree) -> int:
    stage = optimizer.get("zero_stage")
    if isinstance(stage, Node) and isinstance(stage.args, tuple) and len(stage.args) == 1:  # an enumeration's value
        stage = stage.args[0]
    if type(stage) is not int or stage not in _FLAT:
        raise UnsupportedFormatError("the optimizer's file is of no stage of ZeRO", remedy=_CONSOLIDATE)
    return stage


def _ranks(optimizer: Tree) -> int:
    count = optimizer.get("partition_count")
    counts: list[Any] = count if isinstance(count, list) else [count]
    if not counts or not all(type(each) is int and 0 < each <= MAX_RANKS for each in counts):
        raise CheckpointLoadError("the optimizer's file does not say how many ranks there are")
    if len(set(counts)) > 1:
        raise UnsupportedFormatError("groups of weights are spread over different ranks", remedy=_CONSOLIDATE)
    return int(counts[0])


def _refuse_parallelism(model: Tree) -> None:
    size = model.get("mp_world_size", 1)
    if size != 1:
        parts = size if type(size) is int else "unknown"
        raise UnsupportedFormatError(f"the model is cut into {parts} parts (mp_world_size)", remedy=_CONSOLIDATE)
    if any(model.get(key) is not None for key in _EXPERTS):
        raise UnsupportedFormatError("the model's experts are in files of their own", remedy=_CONSOLIDATE)


def _paddings(optimizer: Tree, groups: Sequence[Mapping[str, Any]]) -> list[list[int]] | None:
    found = optimizer.get("param_alignment_paddings")
    if found is None:
        return None
    fits = isinstance(found, list) and len(found) == len(groups)
    if not fits or not all(isinstance(row, list) and is_counts(tuple(row)) for row in found):
        raise CheckpointLoadError("the paddings between the weights are no numbers")
    if any(len(row) != len(shapes) for row, shapes in zip(found, groups, strict=True)):
        raise CheckpointValidationError("there are other paddings than weights", remedy=_RESAVE)
    return list(found)


def _flat(optimizer: Tree, key: str) -> list[Tensor]:
    tensors = [_tensor(value, key) for value in _list(optimizer, key)]
    if any(len(tensor.shape) != 1 for tensor in tensors):
        raise CheckpointLoadError(f"{key!r} holds a tensor that is not flat")
    return tensors


def _tensor(value: Any, name: str) -> Tensor:
    if not isinstance(value, Tensor) or not value.contiguous:
        raise CheckpointLoadError(f"{name[:80]!r} should be a dense tensor in a rank's file", remedy=_RESAVE)
    return value


def _groups(model: Tree) -> list[dict[str, tuple[int, ...]]]:
    return [_shapes(shapes) for shapes in _list(model, "param_shapes")]


def _shapes(value: Any) -> dict[str, tuple[int, ...]]:
    shapes = _dict(value, "table of shapes")
    if not all(_is_name(name) and is_counts(shape) for name, shape in shapes.items()):
        raise CheckpointLoadError("the shapes of the weights are no numbers")
    return shapes


def _part(tree: Tree, key: str) -> Tree:
    return _dict(tree.get(key), key)


def _dict(value: Any, what: str) -> Tree:
    if not isinstance(value, dict):
        raise UnsupportedFormatError(f"the {what} is a {type(value).__name__}, no dictionary", remedy=_CONSOLIDATE)
    return value


def _list(tree: Tree, key: str) -> list[Any]:
    value = tree.get(key)
    if not isinstance(value, list):
        raise UnsupportedFormatError(f"there is no list of {key}", remedy=_CONSOLIDATE)
    return value


def _is_name(value: Any) -> bool:
    return isinstance(value, str)
