"""What `resume` of a pipeline says: where the run saves, which checkpoint is wanted, and how to go on from it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from preheat.construction import part
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit, check_limits
from preheat.sources.local import LocalSource
from preheat.sources.run import RunSource
from preheat.spelling import build
from preheat.stage import Place

#: How a training goes on: with everything that it had, or with weights alone.
Strategy = Literal["warmStart", "weightsOnly"]


@dataclass(frozen=True)
class Resume:
    """Go on from the newest good checkpoint of a run, decided when the container starts; else run the stages."""

    example: ClassVar[str] = "resume: {from: {run: {root: {local: {path: /output}}, runId: exp-7}}}"

    from_: RunSource | Place
    """Where the run saves: a `run`, or the place that is its folder. A `local` path may be on any volume of the
    training container: the loader gets that volume, too."""

    select: Annotated[str, Limit(min_length=1, max_length=253)] = "latest"
    """Which checkpoint is wanted, in the words of a run's `select`; what cannot be used is passed over."""

    strategy: Strategy = "warmStart"
    """`warmStart`: everything; a checkpoint without optimizer and progress is passed over. `weightsOnly`: no more
    than the weights."""

    max_failures: Annotated[int, Limit(minimum=0, maximum=1000)] = 3
    """How often processes may die on a checkpoint without one having been saved since; then it is passed over. 0: as
    often as they like."""

    def __post_init__(self) -> None:
        """A mapping becomes a source; what cannot be a run's folder is refused."""
        object.__setattr__(self, "from_", _source(self.from_))
        check_limits(self)
        if self.strategy not in get_args(Strategy):
            raise CheckpointConfigError(
                f"Resume.strategy: {self.strategy!r:.40} is none of {', '.join(get_args(Strategy))}"
            )
        if isinstance(self.from_, RunSource) and self.from_.select not in ("latest", self.select):
            raise CheckpointConfigError(
                f"Resume: from.run.select is {self.from_.select!r} and select {self.select!r}",
                remedy="Say under resume which checkpoint is wanted, and leave it out under run",
            )

    @property
    def run(self) -> RunSource:
        """The run, with the checkpoint that is wanted of it."""
        run = self.from_ if isinstance(self.from_, RunSource) else RunSource(root=self.from_)
        return replace(run, select=self.select, training_state=self.strategy == "warmStart")

    @property
    def where(self) -> str:
        """The run's folder, for a person."""
        return self.run.place.uri

    @property
    def folder(self) -> Path | None:
        """The run's folder where it is on a disk; a stage's is in it."""
        run = replace(self.run, stage=None)
        return Path(run.place.uri) if isinstance(run.root, LocalSource) else None

    def checkpoint(self, name: str) -> RunSource:
        """One checkpoint of the run."""
        return replace(self.run, select=name)


def resume_of(value: Any) -> Resume | None:
    """What a document says under `resume`; raises CheckpointConfigError that names what is wrong."""
    found: Resume | None = part(Resume, value, "resume")
    if found is None or isinstance(found, Resume):
        return found
    raise CheckpointConfigError(f"resume: {value!r:.80} says nothing of a run", remedy="Write resume: {from: {...}}")


def _source(value: Any) -> RunSource | Place:
    built = build(value, "resume.from")
    if not isinstance(built, (RunSource, Place)):
        raise CheckpointConfigError(
            f"resume.from: {type(built).__name__} is not where a run saves",
            remedy="Name a run, or the one place that is its folder",
        )
    return built
