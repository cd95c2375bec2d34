"""How trainings lay out what they save: one file per layout, each a pure function of a listing's entries."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from preheat.errors import CheckpointConfigError, CheckpointLoadError, about
from preheat.runs.checkpoint import Found, Pointer
from preheat.runs.layouts import lightning, linnaeus, noether, preheat, stackwise, transformers
from preheat.runs.listing import Entry, Listing
from preheat.runs.names import metric_of

AUTO = "auto"


@dataclass(frozen=True)
class Layout:
    """A way in which trainings name their checkpoints.

    `find` takes what is certainly one of its files; `widely` those, too, that only somebody who names the layout means.
    `read` says which checkpoint a pointer names, from its content or, `of_state`, from what a checkpoint keeps besides
    its weights; it may be asked for the best by a metric.
    """

    find: Callable[[Sequence[Entry]], Found]
    widely: Callable[[Sequence[Entry]], Found] | None = None
    read: Callable[[Any, str | None], str] | None = None
    of_state: bool = False
    files: str = ""  # what they are called, for a person


LAYOUTS: dict[str, Layout] = {
    "preheat": Layout(preheat.find, read=preheat.named_by, files="<model>_cp=<tag>/manifest.json"),
    "noether": Layout(noether.find, files="<model>_cp=<tag>_model.th"),
    "anemoi": Layout(lightning.find, read=lightning.named_by, of_state=True, files="last.ckpt"),
    "lightning": Layout(lightning.find, read=lightning.named_by, of_state=True, files="*.ckpt"),
    "transformers": Layout(transformers.find, read=transformers.named_by, files="checkpoint-<step>/"),
    "linnaeus": Layout(linnaeus.find, linnaeus.find_widely, files="ckpt_epoch_<n>.pth, latest.pth"),
    "stackwise": Layout(
        stackwise.find, stackwise.find_widely, files="progressive_stack_<n>.pt, rack_complete_<n>.pt, stack_<n>.pt"
    ),
}
_HIDDEN = re.compile(r"(?:^|/)\.[^/]*/")
#: Anemoi's files are Lightning's, so they are looked for once.
_AUTOMATIC = tuple(name for name in LAYOUTS if name != "anemoi")


def find(entries: Iterable[Entry], layout: str = AUTO) -> Found:
    """The checkpoints and pointers of one layout, or of all that have any; the order of the entries is no matter."""
    entries = sorted(filter(_is_meant, entries), key=lambda entry: entry.path)
    if layout != AUTO:
        known = _known(layout)
        return (known.widely or known.find)(entries)
    found = [LAYOUTS[name].find(entries) for name in _AUTOMATIC]
    return Found(
        tuple(checkpoint for each in found for checkpoint in each.checkpoints),
        tuple(pointer for each in found for pointer in each.pointers),
    )


def _is_meant(entry: Entry) -> bool:
    """Whether anybody may look at it: hidden folders hold what is being written, snapshots and the like.

    Names come from whoever may write there, and go into logs and messages.
    """
    return entry.path.isprintable() and _HIDDEN.search(entry.path) is None


def named_by(listing: Listing, pointer: Pointer) -> str:
    """The name of the checkpoint that a pointer names; raises CheckpointLoadError for one that makes no sense."""
    layout = _known(pointer.layout)
    said: Any = _state(listing, pointer.entry.path) if layout.of_state else listing.read(pointer.entry.path)
    try:
        assert layout.read is not None  # noqa: S101 - its layout has made it
        return layout.read(said, metric_of(pointer.tag))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointLoadError(
            f"{listing.uri}{pointer.entry.path} names no checkpoint: {type(error).__name__}: {error}",
            remedy="Select another one, or save or tag it again",
        ) from error


def _state(listing: Listing, path: str) -> Any:
    from preheat.formats import read_index

    blob = listing.open(path)
    try:
        with about(blob.uri):
            return read_index(blob).state
    finally:
        blob.close()


def described(layout: str) -> str:
    """What the files of a layout are called."""
    names: Iterable[str] = _AUTOMATIC if layout == AUTO else (layout,)
    return "; ".join(f"{name}: {_known(name).files}" for name in names)


def _known(layout: str) -> Layout:
    if layout not in LAYOUTS:
        raise CheckpointConfigError(f"unknown layout {layout!r:.40}", remedy=f"Known: {AUTO}, {', '.join(LAYOUTS)}")
    return LAYOUTS[layout]
