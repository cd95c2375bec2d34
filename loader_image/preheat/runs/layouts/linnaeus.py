"""linnaeus' files: `ckpt_epoch_12.pth`, and `latest.pth`, which every save writes anew."""

from __future__ import annotations

import re
from collections.abc import Sequence

from preheat.runs.checkpoint import Checkpoint, Found
from preheat.runs.layouts.grouping import empty_one
from preheat.runs.listing import Entry
from preheat.runs.names import LATEST
from preheat.runs.position import Position

NAME = "linnaeus"
SUFFIX = ".pth"
_NUMBERED = re.compile(r"^ckpt_epoch_([0-9]{1,18})$")


def find(entries: Sequence[Entry]) -> Found:
    """Files of these two names."""
    return Found(tuple(each for each in find_widely(entries).checkpoints if each.position or each.tag == LATEST))


def find_widely(entries: Sequence[Entry]) -> Found:
    """Every file that ends in .pth."""
    return Found(tuple(_checkpoint(entry) for entry in entries if entry.name.endswith(SUFFIX)))


def _checkpoint(entry: Entry) -> Checkpoint:
    stem = entry.name.removesuffix(SUFFIX)
    epoch = _NUMBERED.match(stem)
    return Checkpoint(
        layout=NAME,
        name=entry.name,
        files=(entry,),
        folder=entry.folder,
        tag=stem,
        position=Position(epoch=int(epoch[1])) if epoch else None,
        incomplete=empty_one([entry]),
    )
