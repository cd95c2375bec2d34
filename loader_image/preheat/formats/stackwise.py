"""Stack-Wise's files: a model's stacks as a list of state dicts, or one stack alone.

Each stack has a label of its precision, which its own code keeps and never acts on. Its caches of activations are no
training state: whoever goes on without them computes them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from preheat.errors import CheckpointIncompatibleError
from preheat.index import Index

LAYOUT = "stackwise"

#: What may be left behind by whoever goes on with the training.
ARTEFACTS = frozenset(("activation_cache",))

_ONE = "stack_state_dict"
_STACKS = "stacks"
_BESIDE = ("embeddings", "lm_head")  # state dicts that a rack has beside its stacks
#: The labels, as dtypes of the formats; None: as the values are stored.
_DTYPES: Mapping[str, str | None] = {"full": "F32", "half": "F16", "bfloat16": "BF16", "qlora": None, "nvfp4": None}


def state_dicts(root: Mapping[Any, Any]) -> tuple[dict[str, dict[Any, Any]], dict[Any, Any]] | None:
    """The state dicts by what their names begin with, and the tree of all the rest; None where it is another layout."""
    if isinstance(root.get(_ONE), dict):
        return {"": root[_ONE]}, _without(root, (_ONE,))
    inner = root.get("rack_builder")
    holder = inner if isinstance(inner, dict) else root
    stacks = holder.get(_STACKS)
    if not isinstance(stacks, list) or not all(isinstance(stack, dict) for stack in stacks):
        return None
    found = {f"{_STACKS}.{number}.": stack for number, stack in enumerate(stacks)}
    found |= {f"{key}.": holder[key] for key in _BESIDE if isinstance(holder.get(key), dict)}
    rest = _without(holder, (_STACKS, *_BESIDE))
    return found, rest if holder is root else {**root, "rack_builder": rest}


def labelled(index: Index) -> dict[str, str | None]:
    """The dtype that each stack's label names, by what the names of its tensors begin with; None: as it is stored.

    Raises CheckpointIncompatibleError for a checkpoint without labels, and for a label that nobody knows.
    """
    state = index.state if index.layout == LAYOUT else {}
    inner = state.get("rack_builder", state)
    settings = inner.get("precision_settings")
    labels = {f"{_STACKS}.{n}.": label for n, label in settings.items()} if isinstance(settings, dict) else {}
    labels |= {"": state["precision"]} if "precision" in state else {}
    if not labels:
        raise CheckpointIncompatibleError(
            f"dtype: labelled takes the precision that Stack-Wise's files name for each stack; {index.layout} has none",
            remedy="Name a dtype",
        )
    for prefix, label in labels.items():
        if label not in _DTYPES:
            raise CheckpointIncompatibleError(
                f"{prefix or 'the stack'} has the label {label!r:.80}; known are {', '.join(_DTYPES)}",
                remedy="Name a dtype",
            )
    return {prefix: _DTYPES[label] for prefix, label in labels.items()}


def without_artefacts(index: Index) -> Any:
    """The state of an index without what a training need not have to go on."""
    return _without(index.state, ARTEFACTS) if index.layout == LAYOUT else index.state


def _without(tree: Mapping[Any, Any], keys: Any) -> dict[Any, Any]:
    return {key: value for key, value in tree.items() if key not in keys}
