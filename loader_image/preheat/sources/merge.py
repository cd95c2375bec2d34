"""Several checkpoints become one: the stem of one model, the blocks of another.

Each is pinned to its own version. Bytes are read of the tensors that are taken, wherever they are, and of no others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from preheat.blob import Blob, Patience
from preheat.construction import construct, snake_case
from preheat.errors import CheckpointConfigError
from preheat.formats.merged import BESIDE, NOT_VOUCHED_FOR, MergedBlob, Taking, listed
from preheat.limits import Limit
from preheat.mapping import NameMapping
from preheat.sources.credentials import check_credentials
from preheat.spelling import build
from preheat.stage import CheckpointSource


@dataclass(frozen=True, kw_only=True)
class MergedSource(NameMapping):
    """One of the checkpoints, and what is taken of it."""

    from_: CheckpointSource
    """Where it is. The same one may be named twice, so that a tensor is taken under two names; it is read once."""

    ema: Annotated[str, Limit(min_length=1, max_length=512)] | None = None
    """Take averaged weights in place of the raw ones: `auto`, or the keys that lead to them."""

    def __post_init__(self) -> None:
        """Mappings become sources."""
        source = build(self.from_, "from")
        if not isinstance(source, CheckpointSource):
            raise CheckpointConfigError(f"from: {type(source).__name__} is no source")
        if isinstance(source, MergeSource):
            raise CheckpointConfigError("from: a merge in a merge; write the sources in one list")
        object.__setattr__(self, "from_", source)
        super().__post_init__()


@dataclass(frozen=True)
class MergeSource(CheckpointSource):
    """Make one checkpoint of several: some tensors of each, no two of them under one name."""

    example: ClassVar[str] = r"""
merge:
  sources:
  - from: {s3: {bucket: model-zoo, key: convnext_tiny.pth, region: us-east-1}}
    select: ['^downsample_layers\.0\.', '^stages\.0\.']
    rename: [{pattern: '^downsample_layers\.0\.', replacement: stem.}]
  - from: {http: {url: "https://models.example.org/vit.safetensors"}}
    select: ['^blocks\.']
    addPrefix: encoder.
"""

    sources: Annotated[tuple[MergedSource, ...], Limit(min_length=1, max_length=8)]
    """The checkpoints, each with what is taken of it. Two that give the same name are an error, as is a pattern that
    matches nothing."""

    def __post_init__(self) -> None:
        """Mappings become sources, as in a pipeline; two that would take each other's credentials are refused."""
        object.__setattr__(self, "sources", _built(self.sources))
        super().__post_init__()
        check_credentials(self.places)

    @property
    def uri(self) -> str:
        """All of them; each once."""
        return listed(each.from_.uri for each in self.sources)

    @property
    def places(self) -> tuple[CheckpointSource, ...]:
        """Those of every source."""
        return tuple(place for source in self._checkpoints() for place in source.places)

    @property
    def in_pod(self) -> bool:
        """Whether one of them does: all have to be read."""
        return any(source.in_pod for source in self._checkpoints())

    @property
    def same_everywhere(self) -> bool:
        """One of them that may be another tomorrow makes another merge of it."""
        return all(source.same_everywhere for source in self._checkpoints())

    def at(self, uri: str, version: str) -> CheckpointSource:
        """Each of them at its version, where all are told."""
        checkpoints, uris, versions = self._checkpoints(), uri.split(BESIDE), version.split(BESIDE)
        if not len(uris) == len(versions) == len(checkpoints):
            return self
        pinned = [source.at(*found) for source, *found in zip(checkpoints, uris, versions, strict=True)]
        return MergeSource(tuple(replace(s, from_=pinned[checkpoints.index(s.from_)]) for s in self.sources))

    def beside(self, name: str) -> CheckpointSource:
        """Nothing lies beside several checkpoints, not even a signature."""
        raise CheckpointConfigError(f"{name!r} would lie beside {self.uri}", remedy=NOT_VOUCHED_FOR)

    def open(self, patience: Patience) -> Blob:
        """Pin every one of them; raises the first one's error."""
        checkpoints, opened = self._checkpoints(), list[Blob]()
        try:
            for source in checkpoints:
                opened.append(source.open(patience))
        except BaseException:
            for blob in opened:
                blob.close()
            raise
        takings = [
            Taking(f"sources[{position}]", checkpoints.index(each.from_), each, each.ema)
            for position, each in enumerate(self.sources)
        ]
        return MergedBlob(opened, takings)

    def _checkpoints(self) -> list[CheckpointSource]:
        """Each once, in the order in which they are first named; options of a source may have no hash."""
        found: list[CheckpointSource] = []
        for each in self.sources:
            if each.from_ not in found:
                found.append(each.from_)
        return found


def _built(sources: Any) -> tuple[MergedSource, ...]:
    if not isinstance(sources, Sequence) or isinstance(sources, str):
        raise CheckpointConfigError("sources: give a list, each item of it with a source under `from`")
    return tuple(_part(each, f"sources[{position}]") for position, each in enumerate(sources))


def _part(part: Any, where: str) -> MergedSource:
    if isinstance(part, MergedSource):
        return part
    if not isinstance(part, Mapping) or not {"from", "from_"} & part.keys():
        raise CheckpointConfigError(f"{where}: {part!r:.80} has no source. Write {{from: {{s3: ...}}, select: [...]}}")
    given = {"from_" if name == "from" else snake_case(name): value for name, value in part.items()}
    built: MergedSource = construct(MergedSource, given, where)
    return built
