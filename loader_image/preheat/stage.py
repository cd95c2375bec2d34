"""What a stage is: a frozen dataclass whose fields are its parameters and whose `process` is its work.

One declaration serves every reader: the constructor checks it, the resource's schema is derived from it, docs quote it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import TYPE_CHECKING, ClassVar

from preheat.blob import Blob, Patience
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.limits import check_limits

if TYPE_CHECKING:
    from preheat.runs.listing import Tree


class PipelineStage(ABC):
    """One step of a pipeline. Subclasses that are dataclasses have their parameters checked when they are built."""

    #: One stage of this kind in a resource, in YAML, as the reference shows it.
    example: ClassVar[str] = ""

    def __post_init__(self) -> None:
        """Check every declared bound; families add their own rules and call this first."""
        if is_dataclass(self):
            check_limits(self)

    @abstractmethod
    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Do the stage's work and return the context, usually the same object."""

    async def __call__(self, context: CheckpointContext) -> CheckpointContext:
        return await self.process(context)


@dataclass(frozen=True)
class SecretVariable:
    """One key of the source's Secret, as the environment variable in which the source's library looks for it."""

    variable: str
    key: str
    required: bool = False  # a pod whose Secret lacks it waits, and says so, instead of reading with other credentials


class CheckpointSource(PipelineStage):
    """Says where the checkpoint is; `open` pins it to one version."""

    #: Keys that a Secret named by `secret_ref` may hold.
    secret_variables: ClassVar[tuple[SecretVariable, ...]] = ()

    @property
    @abstractmethod
    def uri(self) -> str:
        """Where the checkpoint is, for a person, without credentials."""

    @property
    def places(self) -> tuple[CheckpointSource, ...]:
        """The sources of one place each that it is made of; itself where it is one."""
        return (self,)

    @property
    def secrets(self) -> tuple[tuple[str, SecretVariable], ...]:
        """Names of Secrets, each with a variable that the loader is to be given from it, once."""
        named = ((getattr(place, "secret_ref", None), place.secret_variables) for place in self.places)
        return tuple(dict.fromkeys((secret, each) for secret, variables in named if secret for each in variables))

    @abstractmethod
    def open(self, patience: Patience) -> Blob:
        """Pin the object to its present version; raises a CheckpointSourceError that says why not."""

    @property
    def in_pod(self) -> bool:
        """Whether it lies in the file system of whoever reads it, so that nobody else can look."""
        return False

    @property
    def same_everywhere(self) -> bool:
        """Whether every pod reads the very checkpoint that the operator's check has found."""
        return True

    def at(self, uri: str, version: str) -> CheckpointSource:
        """The source of what was found at `uri`, in that version where it can be asked for; else as it is."""
        return self

    def for_training(self) -> CheckpointSource:
        """The source for a strategy that takes training state: where there are several checkpoints, one that has it."""
        return self

    def beside(self, name: str) -> CheckpointSource:
        """The source of another file in the checkpoint's folder; raises CheckpointConfigError where there is none."""
        raise CheckpointConfigError(f"{self.uri} is in no folder that could hold {name!r}")

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Put the checkpoint's index into the context; payload is read when a later stage asks for it."""
        import asyncio  # 20 ms that the loader, which runs no event loop, does not pay

        from preheat.bundle.data import open_checkpoint

        context.source = self
        blob = await asyncio.to_thread(self.open, context.patience)
        return await asyncio.to_thread(open_checkpoint, blob, context)


class Place(CheckpointSource):
    """A source that names one place: a file or a folder on a disk, in a bucket, on a server."""

    @abstractmethod
    def below(self, path: str) -> Place:
        """What is at a path in the folder that this place is; a folder's ends in a slash."""

    def tree(self, patience: Patience) -> Tree:
        """The folder that this place is, to be listed; raises CheckpointConfigError where nothing can be."""
        raise CheckpointConfigError(
            f"{self.uri} cannot be listed, so nobody can tell which checkpoints are there",
            remedy="Name the checkpoint itself, or let the folder be one of local, s3 or fsspec",
        )


class LoadingStrategy(PipelineStage):
    """Says how the checkpoint enters the model. Runs in the training process; needs `context.model`."""

    #: Whether the loader brings optimizers, schedulers and progress, too.
    takes_training_state: ClassVar[bool] = False

    #: The tree of averaged weights that is taken in place of the raw ones, or `auto`; None: the raw ones.
    ema: str | None = None


@dataclass(frozen=True)
class Claim:
    """What a modifier says of the names that a strategy is about to match."""

    renamed: Mapping[str, str] = field(default_factory=dict)  # name in the checkpoint -> what the model calls it
    names: frozenset[str] = frozenset()  # of either side: the strategy leaves them to the modifier


class ModelModifier(PipelineStage):
    """Changes the model after its weights are in. Runs in the training process."""

    #: Whether it can bring weights of the checkpoint into the model itself, with or without a strategy before it.
    loads: ClassVar[bool] = False

    #: Whether it is left out where a training goes on from a checkpoint of its own, which holds what it has done.
    once: ClassVar[bool] = False

    def claim(self, context: CheckpointContext, checkpoint: Iterable[str], model: Iterable[str]) -> Claim:
        """Asked before an earlier strategy matches names: what this modifier will load by itself. Changes nothing."""
        return Claim()
