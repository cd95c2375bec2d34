"""What a legacy system would load beside what Preheat would, on the files that can be reached from here."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.blob import Patience
from preheat.errors import CheckpointConfigError, CheckpointError
from preheat.formats import read_index
from preheat.migrate.choices import Chosen
from preheat.migrate.migration import Migration
from preheat.runs.names import LATEST
from preheat.sources.run import RunCheckpoint, RunSource
from preheat.spec import PipelineSpec, parse
from preheat.stage import CheckpointSource


@dataclass(frozen=True)
class Ours:
    """What Preheat would load, or why it would load nothing; and what it would pass over, each with the reason."""

    path: str | None
    why: str
    passed: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Compared:
    """Both choices."""

    legacy: Chosen
    ours: Ours

    @property
    def same(self) -> bool:
        """Whether both load the same file, or both none."""
        if self.legacy.path is None or self.ours.path is None:
            return self.legacy.path is None and self.ours.path is None
        return self.legacy.path.expanduser().resolve() == Path(self.ours.path).resolve()

    @property
    def because(self) -> str:
        """Why they differ."""
        if self.same:
            return ""
        reasons = dict(self.ours.passed)
        legacy = str(self.legacy.path and self.legacy.path.absolute())
        if legacy in reasons:
            return f"{legacy} is passed over: {reasons[legacy]}"
        return f"the legacy rule: {self.legacy.why}; here: {self.ours.why}"

    def to_json(self) -> dict[str, Any]:
        """The answer for programs."""
        return {
            "same": self.same,
            "because": self.because,
            "legacy": {"path": str(self.legacy.path) if self.legacy.path else None, "why": self.legacy.why},
            "preheat": {
                "path": self.ours.path,
                "why": self.ours.why,
                "passedOver": [{"path": path, "reason": reason} for path, reason in self.ours.passed],
            },
        }


def compare(migration: Migration, patience: Patience) -> Compared:
    """Apply both rules; raises CheckpointConfigError for a configuration that has no file of one checkpoint."""
    if migration.choice is None or migration.document is None:
        raise CheckpointConfigError(
            "there is no one checkpoint to compare: the configuration begins with random weights, with several models, "
            "or with a class of yours"
        )
    return Compared(migration.choice.choose(), _ours(parse(migration.document), patience))


def _ours(spec: PipelineSpec, patience: Patience) -> Ours:
    """The first source that has a checkpoint: what is resumed, then that of the stages."""
    passed: list[tuple[str, str]] = []
    for source in [*([spec.resume.run] if spec.resume else []), spec.source]:
        try:
            for path, candidate in _candidates(source, patience, passed):
                try:
                    _read(candidate, patience)
                except CheckpointError as error:
                    passed.append((path, f"{error.reason}: {str(error.args[0]).removeprefix(f'{path}: ')}"))
                else:
                    return Ours(path, _rule(source), tuple(passed))
        except CheckpointError as error:
            passed.append((source.uri, f"{error.reason}: {error.args[0]}"))
    return Ours(None, "; ".join(reason for _, reason in passed), tuple(passed))


def _rule(source: CheckpointSource) -> str:
    if not isinstance(source, RunSource):
        return "the one that is named"
    return "the newest, by its position" if source.select == LATEST else f"{source.select}, the first in our order"


def _read(candidate: CheckpointSource | RunCheckpoint, patience: Patience) -> None:
    """As far as its index, which tells whether it is whole."""
    blob = candidate.open(patience)
    try:
        read_index(blob)
    finally:
        blob.close()


def _candidates(
    source: CheckpointSource, patience: Patience, passed: list[tuple[str, str]]
) -> Iterator[tuple[str, CheckpointSource | RunCheckpoint]]:
    """What a source may open, best first, each by its path."""
    if not isinstance(source, RunSource):
        blob = source.open(patience)
        blob.close()
        yield blob.uri, source
        return
    found = source.selection(patience)
    root = found.listing.uri.rstrip("/")
    passed += [(f"{root}/{each.checkpoint.path}", each.reason) for each in found.unfit]
    for candidate in found:
        yield f"{root}/{candidate.checkpoint.path}", candidate
