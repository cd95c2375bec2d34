"""The bytes of a checkpoint that was found in a listing: the file, the folder or the files that it consists of."""

from __future__ import annotations

from preheat.blob import Blob
from preheat.formats.folders import open_in, open_together
from preheat.runs.checkpoint import Checkpoint
from preheat.runs.listing import Listing

#: Files of a checkpoint in several that hold no weights.
_OF_TRAINING = ("_optim.th", "_trainer.th")


def open_found(listing: Listing, checkpoint: Checkpoint, *, training: bool) -> Blob:
    """Pin every file of it; those with nothing but a training's state only where that is wanted."""
    folder = listing.folder(checkpoint.folder)
    if checkpoint.is_folder:
        return open_in(folder)
    names = [entry.name for entry in checkpoint.files if training or not entry.name.endswith(_OF_TRAINING)]
    if names == [checkpoint.name]:
        return open_in(folder, checkpoint.name)
    return open_together(folder, checkpoint.name, names)
