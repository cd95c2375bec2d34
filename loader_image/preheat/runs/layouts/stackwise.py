"""Stack-Wise's files: `progressive_stack_2.pt` and `rack_complete_3.pt` of a trainer, `stack_0.pt` of a builder.

Their numbers count stacks, not time: each is written anew whenever that stack is trained, so their times say which is
the newest.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from preheat.runs.checkpoint import Checkpoint, Found
from preheat.runs.layouts.grouping import empty_one
from preheat.runs.listing import Entry

NAME = "stackwise"
SUFFIX = ".pt"
_OF_TRAINER = re.compile(r"^(?:progressive_stack|rack_complete)_[0-9]{1,9}$")
_STACK = re.compile(r"^stack_[0-9]{1,9}$")


def find(entries: Sequence[Entry]) -> Found:
    """Files of these names."""
    found = find_widely(entries).checkpoints
    return Found(tuple(each for each in found if each.part or _OF_TRAINER.match(each.tag)))


def find_widely(entries: Sequence[Entry]) -> Found:
    """Every file that ends in .pt: a builder writes to whatever path it is given."""
    return Found(tuple(_checkpoint(entry) for entry in entries if entry.name.endswith(SUFFIX)))


def _checkpoint(entry: Entry) -> Checkpoint:
    stem = entry.name.removesuffix(SUFFIX)
    return Checkpoint(
        layout=NAME,
        name=entry.name,
        files=(entry,),
        folder=entry.folder,
        tag=stem,
        part=bool(_STACK.match(stem)),
        incomplete=empty_one([entry]),
    )
