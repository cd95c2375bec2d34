"""A checkpoint of a training run, found by what it is: the newest, the best, that of an epoch, a tag.

The run's folder is listed once. Which one is meant is decided by `runs.selection`; one that turns out to be no
checkpoint when it is opened is passed over as well, and the log says why.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from preheat.blob import Blob, Patience
from preheat.errors import (
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointLoadError,
    CheckpointNotFoundError,
    CheckpointValidationError,
    NotABundleError,
    SourceChangedError,
    about,
)
from preheat.limits import Limit, Name
from preheat.sources.places import place_of
from preheat.stage import CheckpointSource, Place

if TYPE_CHECKING:
    from preheat.runs.checkpoint import Checkpoint
    from preheat.runs.listing import Listing
    from preheat.runs.selection import Selection, Unfit

log = logging.getLogger(__name__)

# A path without empty parts, `.` and `..`, in the words of both regular expressions and the API server's.
_STEP = r"([^/\\.]|\.[^/\\.]|\.\.[^/\\])[^/\\]*"
Step = Annotated[str, Limit(min_length=1, max_length=253, pattern=f"^{_STEP}(/{_STEP})*$")]
#: What says of one checkpoint that it is none; what concerns the place ends the search.
_NOT_THIS_ONE = (
    CheckpointLoadError,
    CheckpointValidationError,
    CheckpointIncompatibleError,
    CheckpointNotFoundError,
    NotABundleError,
)
#: Of those that are passed over, how many are told of one by one.
_TOLD = 8


@dataclass(frozen=True)
class RunSource(CheckpointSource):
    """Read a checkpoint of a training run: the newest, the best, one by its position or tag."""

    example: ClassVar[str] = """
run:
  root: {s3: {bucket: my-models, key: runs/}}
  runId: 2026-03-01_abcde
  select: latest
"""

    root: Place
    """The folder of the runs, or without runId that of the run itself: one of local, s3 and fsspec."""

    run_id: Step | None = None
    """The run's folder in it."""

    stage: Step | None = None
    """The stage's folder in that of the run."""

    select: Annotated[str, Limit(min_length=1, max_length=1024)] = "latest"
    """latest, last, best.METRIC, min.METRIC, max.METRIC, a position such as E10, U100, S200 or E10_U100_S200, a tag, or
    the checkpoint's name."""

    model: Name | None = None
    """Whose checkpoint; needed where there are several models."""

    info: Name | None = None
    """Variant of the weights, such as ema=0.9999; default: the raw ones."""

    layout: Literal["auto", "preheat", "noether", "anemoi", "lightning", "transformers", "linnaeus", "stackwise"] = (
        "auto"
    )
    """Who wrote the run."""

    training_state: bool = False
    """Take only a checkpoint from which a training can go on. A warmStart asks for that by itself."""

    #: Set by a selection on the sources of its checkpoints: what was listed need not be listed again.
    _listing: ClassVar[Any] = None

    def __post_init__(self) -> None:
        """A mapping becomes the source that it describes, as in a pipeline."""
        object.__setattr__(self, "root", place_of(self.root, "root"))
        super().__post_init__()

    @property
    def uri(self) -> str:
        """Where the run is, and what is selected; which one that was, the opened blob says."""
        return f"{self.place.uri.rstrip('/')}/ ({self.select})"

    @property
    def places(self) -> tuple[CheckpointSource, ...]:
        """The root."""
        return (self.root,)

    @property
    def in_pod(self) -> bool:
        """Whether the root does."""
        return self.root.in_pod

    def at(self, uri: str, version: str) -> CheckpointSource:
        """The checkpoint that was selected before, whatever has come since."""
        folder = f"{self.place.uri.rstrip('/')}/"
        if not uri.startswith(folder):
            return self
        parameters = {field.name: getattr(self, field.name) for field in fields(self)}
        return _PinnedRun(**{**parameters, "select": uri.removeprefix(folder)})

    def for_training(self) -> RunSource:
        """Only checkpoints from which a training can go on."""
        return replace(self, training_state=True)

    def selection(self, patience: Patience) -> RunSelection:
        """What the selector means in the run as it is now, best first.

        Raises CheckpointNotFoundError when there is none, and CheckpointConfigError when it is not clear what is meant.
        """
        from preheat.runs.listing import Listing

        return self.among(self._listing or Listing(self.place.tree(patience)))

    def among(self, listing: Listing) -> RunSelection:
        """The same in a listing of the run's folder."""
        from preheat.runs import layouts
        from preheat.runs.selection import Selection, Wanted

        found = layouts.find(listing.entries, self.layout)
        if not found.checkpoints:
            raise _nothing(listing, self)
        wanted = Wanted(self.select, self.model, self.info, self.training_state)
        read = partial(layouts.named_by, listing)
        return RunSelection(self, listing, Selection.of(found, wanted, listing.uri, read))

    def open(self, patience: Patience) -> Blob:
        """Open the best of those that are checkpoints; the log says which, and why others were passed over."""
        selection = self.selection(patience)
        for unfit in selection.unfit[:_TOLD]:
            log.warning("passed over %s", unfit)
        if len(selection.unfit) > _TOLD:
            log.warning("passed over %d more", len(selection.unfit) - _TOLD)
        failures: list[CheckpointError] = []
        for each in selection:
            try:
                blob = each.open(patience)
            except _NOT_THIS_ONE as error:
                log.warning("passed over %s: %s: %s", each.checkpoint.path, error.reason, error)
                failures.append(error)
            else:
                log.info("taking %s", each.checkpoint.path)
                return blob
        raise failures[0] if len(failures) == 1 else _none_of(failures, selection.listing.uri)

    @property
    def place(self) -> Place:
        """The folder of the run, or of its stage."""
        steps = [step for step in (self.run_id, self.stage) if step]
        return self.root.below("/".join([*steps, ""])) if steps else self.root


@dataclass(frozen=True)
class RunCheckpoint:
    """A checkpoint that a selector means, as it can be opened."""

    checkpoint: Checkpoint
    run: RunSource
    listing: Listing

    @property
    def source(self) -> RunSource:
        """The source of it, and of no other."""
        source = replace(self.run, select=self.checkpoint.name)
        object.__setattr__(source, "_listing", self.listing)
        return source

    def open(self, patience: Patience) -> Blob:
        """Open it; raises a CheckpointError when it is no checkpoint, or none from which a training can go on."""
        from preheat.formats import read_ahead
        from preheat.formats.training_state import require_optimizer
        from preheat.runs.opening import open_found

        blob = open_found(self.listing, self.checkpoint, training=self.run.training_state)
        try:
            with about(blob.uri):
                index = read_ahead(blob)
            if self.run.training_state:
                require_optimizer(index.state, blob.uri)
        except BaseException:
            blob.close()
            raise
        return blob


@dataclass(frozen=True)
class RunSelection:
    """What a selector means in a run, best first, and what of it is not to be had."""

    run: RunSource
    listing: Listing
    selected: Selection

    @property
    def unfit(self) -> tuple[Unfit, ...]:
        """Checkpoints that the selector means as well, and why they are not to be had."""
        return self.selected.unfit

    def __iter__(self) -> Iterator[RunCheckpoint]:
        return (RunCheckpoint(each, self.run, self.listing) for each in self.selected.checkpoints)

    def __len__(self) -> int:
        return len(self.selected.checkpoints)


class _PinnedRun(RunSource):
    """A run of which one checkpoint was selected before, at the path that `select` is: another one would not do."""

    def among(self, listing: Listing) -> RunSelection:
        from preheat.runs import layouts
        from preheat.runs.selection import Selection

        found = [each for each in layouts.find(listing.entries, self.layout).checkpoints if each.is_at(self.select)]
        if not found:
            raise CheckpointNotFoundError(f"{listing.uri} has it no more")
        return RunSelection(self, listing, Selection(tuple(found)))

    def open(self, patience: Patience) -> Blob:
        try:
            return super().open(patience)
        except CheckpointNotFoundError as error:
            raise SourceChangedError(
                f"{self.select} was selected when the pipeline was checked, and is gone: {error.args[0]}",
                remedy="To take another one, change the pipeline, or let it be checked again with refreshSeconds",
            ) from error


def _nothing(listing: Listing, run: RunSource) -> CheckpointNotFoundError:
    from preheat.runs import layouts

    there = f"{len(listing.entries)} files are there, none" if listing.entries else "there are no files"
    return CheckpointNotFoundError(
        f"{listing.uri} holds no checkpoint: {there} of the kind that is looked for ({layouts.described(run.layout)})",
        remedy="Check root, runId, stage and layout",
    )


def _none_of(failures: list[CheckpointError], uri: str) -> CheckpointLoadError:
    told = "; ".join(f"{error.reason}: {error.args[0]}" for error in failures[:_TOLD])
    more = f"; and {len(failures) - _TOLD} more" if len(failures) > _TOLD else ""
    return CheckpointLoadError(
        f"{uri}: none of {len(failures)} checkpoints can be read: {told}{more}", remedy="Select another run"
    )
