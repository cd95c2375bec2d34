"""Several places for one checkpoint: the first that has it is read, and the log says why others were passed over.

Passed over is what another place can mend: nothing is there, access is refused, nobody answers. A source that is
written down wrong, changes while it is read or holds no checkpoint ends the search: the next one would hide it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    SourceChangedError,
)
from preheat.limits import Limit
from preheat.sources.credentials import check_credentials
from preheat.spelling import build
from preheat.stage import CheckpointSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FallbackSource(CheckpointSource):
    """Read the checkpoint from the first of several sources that has it."""

    example: ClassVar[str] = """
fallback:
  sources:
  - s3: {bucket: near, key: model-v1.ckpt, region: eu-central-1}
  - http: {url: "https://models.example.org/model-v1.ckpt"}
"""

    sources: Annotated[tuple[CheckpointSource, ...], Limit(min_length=1, max_length=8)]
    """The sources, in order. One is passed over when it has nothing there, refuses access, or cannot be reached."""

    def __post_init__(self) -> None:
        """Mappings become sources, as in a pipeline; two that would take each other's credentials are refused."""
        object.__setattr__(self, "sources", _built(self.sources))
        super().__post_init__()
        check_credentials(self.places)

    @property
    def uri(self) -> str:
        """All of them; which one it was, the opened blob says."""
        return ", else ".join(source.uri for source in self.sources)

    @property
    def places(self) -> tuple[CheckpointSource, ...]:
        """Those of every source."""
        return tuple(place for source in self.sources for place in source.places)

    @property
    def in_pod(self) -> bool:
        """Whether all of them do."""
        return all(source.in_pod for source in self.sources)

    @property
    def same_everywhere(self) -> bool:
        """No: another one may be the first that can be read."""
        return False

    def at(self, uri: str, version: str) -> CheckpointSource:
        """The one that has what was found, as it was then; the others as they are."""
        return FallbackSource(tuple(source.at(uri, version) for source in self.sources))

    def for_training(self) -> CheckpointSource:
        """Each of them for a training."""
        return FallbackSource(tuple(source.for_training() for source in self.sources))

    def beside(self, name: str) -> CheckpointSource:
        """A file that is beside the checkpoint in one of the places."""
        return FallbackSource(tuple(source.beside(name) for source in self.sources))

    def open(self, patience: Patience) -> Blob:
        """Try one after the other, each with the whole patience; raises what all have answered."""
        passed: list[tuple[str, CheckpointSourceError]] = []
        for source in self.sources:
            try:
                blob = source.open(patience)
            except SourceChangedError:
                raise
            except CheckpointSourceError as error:
                log.warning("passed over %s: %s: %s", source.uri, error.reason, error)
                passed.append((source.uri, error))
            else:
                log.info("taking %s", source.uri)
                return blob
        raise _nowhere(passed)


def _built(sources: Any) -> tuple[CheckpointSource, ...]:
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        raise CheckpointConfigError("sources: give a list, each item of it with one source")
    built = [build(each, f"sources[{position}]") for position, each in enumerate(sources)]
    for position, source in enumerate(built):
        if not isinstance(source, CheckpointSource):
            raise CheckpointConfigError(f"sources[{position}]: {type(source).__name__} is no source")
        if isinstance(source, FallbackSource):
            raise CheckpointConfigError(f"sources[{position}]: a fallback in a fallback; write the sources in one list")
    return tuple(source for source in built if isinstance(source, CheckpointSource))


def _nowhere(passed: Sequence[tuple[str, CheckpointSourceError]]) -> CheckpointSourceError:
    """One error for all: of their kind when they agree, so that nobody retries what is not there."""
    reasons = {error.reason for _, error in passed}
    kinds = (CheckpointNotFoundError, AccessDeniedError, CheckpointTimeoutError)
    kind = next((kind for kind in kinds if reasons == {kind.reason}), CheckpointSourceError)
    told = "; ".join(f"{uri}: {error.reason}: {error}" for uri, error in passed)
    return kind(f"none of {len(passed)} sources can be read: {told}", remedy="Mend one of them")
