"""One checkpoint as several files of at most some size, named and indexed as Transformers reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from preheat.plan import Plan, make_plan
from preheat.spec import PipelineSpec
from preheat.verify import Verify

INDEX = ".index.json"


def shards_of(plan: Plan, verify: Verify, size: int) -> list[Plan]:
    """Plans that together bring what `plan` does, tensors in their order, `size` bytes of them each.

    A tensor that is larger has a file of its own.
    """
    groups, room = list[dict[str, int]](), 0
    for name, tensor in plan.index.tensors.items():
        if name in plan.aliases:
            continue
        if not groups or tensor.final_size > max(room, 0):
            groups.append({})
            room = size
        groups[-1][name] = tensor.final_size
        room -= tensor.final_size
    whole = plan.index
    return [
        make_plan(replace(whole, tensors={name: whole.tensors[name] for name in group}), PipelineSpec((verify,)))
        for group in groups
    ]


def shard_names(target: Path, count: int) -> list[Path]:
    """`model-00001-of-00002.safetensors` and so on, then the index: `model.safetensors.index.json`."""
    numbered = [f"{target.stem}-{number:05d}-of-{count:05d}{target.suffix}" for number in range(1, count + 1)]
    return [target.with_name(name) for name in (*numbered, target.name + INDEX)]


def index_text(shards: Mapping[str, Plan]) -> str:
    """The index of shards by the names of their files."""
    places = {name: file for file, plan in shards.items() for name in plan.index.tensors}
    total = sum(tensor.final_size for plan in shards.values() for tensor in plan.index.tensors.values())
    return json.dumps({"metadata": {"total_size": total}, "weight_map": places}, indent=2) + "\n"
