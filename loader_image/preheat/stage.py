"""What a stage is: a frozen dataclass whose fields are its parameters and whose `process` is its work.

One declaration serves every reader: the constructor checks it, the resource's schema is derived from it, docs quote it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sized
from dataclasses import dataclass, field, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_origin, get_type_hints

from preheat.blob import Blob, Patience
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from preheat.runs.listing import Tree

# What is refused may hold a password, a signature or a key, and the refusal must not repeat it.
_USER_INFORMATION = re.compile(r"//[^/\s]*@")
_QUERY = re.compile(r"(://[^?]*)\?.*")
_SHOWN = 80


@dataclass(frozen=True)
class Limit:
    """Bounds of a parameter, attached with `Annotated`; lengths count characters of a text, items of all else."""

    max_length: int | None = None
    min_length: int | None = None
    pattern: str | None = None
    minimum: float | None = None
    maximum: float | None = None
    items: Limit | None = None

    def check(self, where: str, value: Any) -> None:
        """Raise CheckpointConfigError when `value` is outside the bounds; None is always inside."""
        if value is None:
            return
        if isinstance(value, (str, tuple, list, dict)):
            self._check_length(where, value)
        elif isinstance(value, (int, float)):
            self._check_range(where, value)
        if self.pattern and isinstance(value, str) and not re.search(self.pattern, value):
            raise CheckpointConfigError(f"{where}: {_shown(value)!r} does not match {self.pattern}")
        if self.items and isinstance(value, (tuple, list)):
            for position, item in enumerate(value):
                self.items.check(f"{where}[{position}]", item)

    def _check_length(self, where: str, value: Sized) -> None:
        if self.max_length is not None and len(value) > self.max_length:
            raise CheckpointConfigError(f"{where}: {len(value)} is longer than the allowed {self.max_length}")
        if self.min_length is not None and len(value) < self.min_length:
            raise CheckpointConfigError(f"{where}: must not be empty")

    def _check_range(self, where: str, value: float) -> None:
        if self.minimum is not None and value < self.minimum:
            raise CheckpointConfigError(f"{where}: {value} is below the minimum {self.minimum}")
        if self.maximum is not None and value > self.maximum:
            raise CheckpointConfigError(f"{where}: {value} is above the maximum {self.maximum}")


def _shown(text: str) -> str:
    """The first line of a text, without what may be secret in a URL."""
    line = text.lstrip().partition("\n")[0][:_SHOWN]
    return _QUERY.sub(r"\1?***", _USER_INFORMATION.sub("//***@", line))


# The bounds that most parameters share. Kubernetes budgets its validation rules by these lengths.
Name = Annotated[str, Limit(min_length=1, max_length=253)]
SecretName = Annotated[str, Limit(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]


@cache
def limits_of(stage_class: type) -> dict[str, Limit]:
    """The declared bounds by field name."""
    hints = get_type_hints(stage_class, include_extras=True)
    found = {name: _limit_in(hints[name]) for name in (field.name for field in fields(stage_class))}
    return {name: limit for name, limit in found.items() if limit is not None}


def _limit_in(hint: Any) -> Limit | None:
    candidates = [hint, *get_args(hint)]  # `Annotated[...] | None` hides the annotation one level down
    for candidate in candidates:
        if get_origin(candidate) is Annotated:
            return next((extra for extra in get_args(candidate)[1:] if isinstance(extra, Limit)), None)
    return None


def check_limits(instance: object) -> None:
    """Raise CheckpointConfigError for a parameter of a dataclass outside its declared bounds."""
    component: type = type(instance)
    for name, limit in limits_of(component).items():
        limit.check(f"{component.__name__}.{name}", getattr(instance, name))


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
