"""Several processes save together: each writes its shards, and the first one makes a checkpoint of them.

Nothing but the group's store is used, so it can be done beside a training whose collectives go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from preheat.bundle.storage import storage_errors
from preheat.errors import CheckpointIncompatibleError, StorageError
from preheat.ranks import Ranks
from preheat.saving.appearing import appearing
from preheat.saving.file import Written
from preheat.saving.shards import Shard
from preheat.saving.snapshot import Snapshot

#: Seconds for which a folder may be there for the first process alone: network volumes tell others late.
SEEN = 30.0
_TOLD = "shards"


class Sharing:
    """The checkpoints of one save, and the files that this process writes of each."""

    def __init__(self, ranks: Ranks, snapshots: Sequence[Snapshot], shards: Sequence[Sequence[Shard]]) -> None:
        self._ranks, self._snapshots, self._shards = ranks, snapshots, shards
        self._home = snapshots[0].folder.parent

    def write(self, bring: Callable[[str], torch.Tensor], finish: Callable[[], object]) -> None:
        """Write what is this process's; the first one completes it all, and then calls `finish`.

        Raises on all ranks what went wrong on one, and then no checkpoint appears.
        """
        began = time.monotonic()
        with ExitStack() as appear:
            with self._ranks.together("shard"), storage_errors(self._home):
                folders = self._folders(appear)
                self._ranks.tell(_TOLD, self._write(folders, bring))
            with self._ranks.together("save"), storage_errors(self._home):
                if self._ranks.rank == 0:
                    self._complete(folders, began)
                    appear.close()
                    finish()
        self._ranks.leave("open", "gather", "copy", "shard", "save")

    def _folders(self, appear: ExitStack) -> list[Path]:
        """Those that become the checkpoints."""

        def make() -> str:
            return json.dumps([appear.enter_context(appearing(each.folder)).name for each in self._snapshots])

        names = json.loads(self._ranks.from_first("shard", make))
        folders = [each.folder.with_name(name) for each, name in zip(self._snapshots, names, strict=True)]
        for folder in folders:
            _wait_for(folder)
        return folders

    def _write(self, folders: Sequence[Path], bring: Callable[[str], torch.Tensor]) -> str:
        """What was written to each folder, and how many bytes of boxes, as JSON."""
        written = [
            ({shard.name: vars(shard.write(folder, bring)) for shard in shards}, sum(shard.nbytes for shard in shards))
            for folder, shards in zip(folders, self._shards, strict=True)
        ]
        return json.dumps(written)

    def _complete(self, folders: Sequence[Path], began: float) -> None:
        told = [json.loads(text) for text in self._ranks.told(_TOLD)]
        for folder, snapshot, parts in zip(folders, self._snapshots, zip(*told, strict=True), strict=True):
            _check_size(snapshot, sum(size for _, size in parts))
            files = {name: Written(**file) for written, _ in parts for name, file in written.items()}
            snapshot.complete(folder, files, began)


def _check_size(snapshot: Snapshot, written: int) -> None:
    """Refuse what could not be put together again, now and not when it is needed."""
    wanted = sum(tensor.numel() * tensor.itemsize for tensors in snapshot.files for tensor in tensors.values())
    if written != wanted:
        raise CheckpointIncompatibleError(
            f"the processes' parts of {snapshot.folder.name} have {written} bytes, its tensors {wanted}: the first "
            "process is in none of the groups over which some are spread",
            remedy="Spread every tensor over a group with the first process in it",
        )


def _wait_for(folder: Path) -> None:
    deadline = time.monotonic() + SEEN
    while not folder.is_dir():
        if time.monotonic() > deadline:
            raise StorageError(
                f"{folder.parent} is not the same folder here as it is for rank 0, which made {folder.name} in it",
                remedy="Save to a volume that all processes share, or leave out sharded",
            )
        time.sleep(0.1)
