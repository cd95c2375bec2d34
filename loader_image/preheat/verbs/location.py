"""From one word to a source: what a person types where a pipeline would have a stage.

Only the scheme decides. A word without one is a path; a scheme that Preheat does not know is left to fsspec.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError, about
from preheat.sources.fsspec import FsspecSource
from preheat.sources.http import HTTPSource
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.sources.local import LocalSource
from preheat.sources.s3 import S3Source
from preheat.stage import CheckpointSource

Where = str | Path | CheckpointSource

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*)://")
_S3 = re.compile(r"^[sS]3://([^/]+)/+(.+)$")
# A slash in a revision is written %2F.
_HUB = re.compile(r"^(?:hf|HF)://([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.*))?$")


@dataclass(frozen=True)
class S3Options:
    """What an `s3://` address has no room for."""

    endpoint: str | None = None
    region: str | None = None
    anonymous: bool = False
    version_id: str | None = None
    profile: str | None = None


def source_of(location: str, s3: S3Options | None = None) -> CheckpointSource:
    """The source that a location names; raises CheckpointConfigError for one that cannot be meant."""
    found = _SCHEME.match(location)
    scheme = found[1].lower() if found else ""
    s3 = s3 or S3Options()
    if scheme == "s3":
        return _s3_source(location, s3)
    if s3 != S3Options():
        given = ", ".join(name.replace("_", "-") for name, value in vars(s3).items() if value)
        raise CheckpointConfigError(f"{location} is not in S3, so {given} means nothing for it")
    if scheme == "hf":
        return _hub_source(location)
    if scheme in ("http", "https"):
        return HTTPSource(location)
    if scheme:
        return FsspecSource(scheme + location[len(scheme) :])
    return LocalSource(location)


def located(where: Where) -> CheckpointSource:
    """The source of a location; one that is a source already is returned as it is."""
    return where if isinstance(where, CheckpointSource) else source_of(str(where))


@contextmanager
def opened(where: Where, patience: Patience | None = None) -> Iterator[Blob]:
    """The blob of a location or source, closed at the end; errors about its bytes name it."""
    blob = located(where).open(patience or Patience())
    try:
        with about(blob.uri):
            yield blob
    finally:
        blob.close()


def _hub_source(location: str) -> HuggingFaceSource:
    parts = _HUB.match(location)
    if not parts:
        raise CheckpointConfigError(f"{location} names no repository", remedy="Write hf://org/model@revision/file")
    return HuggingFaceSource(parts[1], unquote(parts[2] or "main"), parts[3] or None)


def _s3_source(location: str, s3: S3Options) -> S3Source:
    parts = _S3.match(location)
    if not parts:
        raise CheckpointConfigError(f"{location} names no object", remedy="Write s3://bucket/key")
    return S3Source(parts[1], parts[2], **vars(s3))
