"""A checkpoint by its name alone, wherever it is on this machine: an absolute path, a cache directory, a bucket.

A name means itself: no pattern, no way out of the directory, and never one of several. With the file in the cache
directory nothing else is asked, so it works where nothing else can be reached.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError, CheckpointNotFoundError, CheckpointSourceError, SourceChangedError
from preheat.limits import Limit
from preheat.sources.local import LocalSource
from preheat.sources.places import place_of
from preheat.stage import CheckpointSource, Place

_LEADS_OUT = re.compile(r"(^|/)\.{0,2}(/|$)|\\|[\x00-\x1f]")
_URL = re.compile(r"^[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class NamedSource(CheckpointSource):
    """Read a checkpoint by its file name: from the cache directory that has it, else from a bucket."""

    example: ClassVar[str] = """
named:
  name: convnext_tiny_22k_1k_384.pth
  cacheDir: /preheat/models
  bucket: {s3: {bucket: zoo, key: modelZoo/}}
"""

    name: Annotated[str, Limit(min_length=1, max_length=1024)]
    """Name of the file, or its path below the cache directory and in the bucket. An absolute path is taken as it is."""

    cache_dir: Annotated[str, Limit(min_length=1, max_length=4096)] | None = None
    """Directory where it is looked for first, right in it and then at any depth. Nothing is written there."""

    bucket: Place | None = None
    """The folder, in a bucket or elsewhere, that has what the directory has not; default: none."""

    def __post_init__(self) -> None:
        """A mapping becomes the source that it describes; names that cannot be meant are refused."""
        if self.bucket is not None:
            object.__setattr__(self, "bucket", place_of(self.bucket, "bucket"))
        super().__post_init__()
        check_identifier(self.name)
        if not (self.is_path or self.cache_dir or self.bucket):
            raise CheckpointConfigError(
                f"{self.name!r:.200} is looked for nowhere", remedy="Set cacheDir, bucket, or both"
            )

    @property
    def is_path(self) -> bool:
        """Whether the name is an absolute path."""
        return Path(self.name).expanduser().is_absolute()

    @property
    def uri(self) -> str:
        """Where it is looked for; where it was, the opened blob says."""
        if self.is_path:
            return LocalSource(self.name).uri
        places = [*([self.cache_dir] if self.cache_dir else []), *([self.bucket.uri] if self.bucket else [])]
        return f"{self.name} in {', else in '.join(places)}"

    @property
    def places(self) -> tuple[CheckpointSource, ...]:
        """The bucket."""
        return (self.bucket,) if self.bucket else ()

    @property
    def in_pod(self) -> bool:
        """Whether there is no bucket that others can read, too."""
        return self.is_path or self.bucket is None or self.bucket.in_pod

    @property
    def same_everywhere(self) -> bool:
        """No: who has it in a cache directory takes that."""
        return False

    def beside(self, name: str) -> CheckpointSource:
        """A file of the same folder, looked for in the same places."""
        folder, slash, _ = self.name.rpartition("/")
        return replace(self, name=folder + slash + name)

    def found_here(self) -> Path | None:
        """Where it is on this machine; raises CheckpointConfigError when that is not clear."""
        if self.is_path:
            path = Path(self.name).expanduser()
            return path if path.exists() else None
        return find_below(Path(self.cache_dir).expanduser(), self.name) if self.cache_dir else None

    def open(self, patience: Patience) -> Blob:
        """Open the first that is there; raises an error that lists where it was looked for."""
        if here := self.found_here():
            return LocalSource(str(here)).open(patience)
        return self.open_in_bucket(patience)

    def open_in_bucket(self, patience: Patience) -> Blob:
        """Open the bucket's; raises an error that lists where else it was looked for."""
        if self.is_path or not self.bucket:
            raise self._nowhere()
        try:
            return self.bucket.below(self.name).open(patience)
        except SourceChangedError:
            raise
        except CheckpointSourceError as error:
            raise self._nowhere(error) from error

    def _nowhere(self, answer: CheckpointSourceError | None = None) -> CheckpointSourceError:
        if self.is_path:
            return CheckpointNotFoundError(f"there is no file {self.uri}", remedy="Check the path")
        tried = [
            f"{self.cache_dir}, which has no such file" if self.cache_dir else "no cache directory, for none is set"
        ]
        tried.append(f"{self.bucket.uri}: {answer.args[0]}" if self.bucket and answer else "no bucket, for none is set")
        kind = type(answer) if answer else CheckpointNotFoundError
        remedy = answer.remedy if answer and kind is not CheckpointNotFoundError else ""
        said = f"{self.name!r:.200} was not found; tried {'; '.join(tried)}"
        return kind(said, remedy=remedy or "Copy the file into the cache directory, or upload it to the bucket")


def check_identifier(name: str) -> None:
    """Raise CheckpointConfigError for a name that means something else than a file of a directory."""
    if _URL.match(name):
        raise CheckpointConfigError(
            f"{name.partition('?')[0]!r:.200} is a URL, no name", remedy="Use http, s3 or fsspec"
        )
    if _LEADS_OUT.search(name.removeprefix("~").removeprefix("/")):
        raise CheckpointConfigError(
            f"{name!r:.200} is no name of a file",
            remedy="Write the file's name, or its path below the directory without . and ..",
        )


def find_below(folder: Path, name: str) -> Path | None:
    """The file, or right in the folder also the folder, of this very name; None when there is none.

    Raises CheckpointConfigError when only deeper folders have it, and several do.
    """
    from preheat.file_blob import LocalFolder

    exact = folder / name
    if exact.is_dir() or (exact.is_file() and exact.stat().st_size):
        return exact
    found = [each for each in LocalFolder(folder).entries() if each.path.endswith(f"/{name}") and each.size]
    if len(found) > 1:
        paths = ", ".join(sorted(str(folder / each.path) for each in found)[:8])
        raise CheckpointConfigError(
            f"{name!r:.200} is there {len(found)} times: {paths}", remedy=f"Name its path below {folder}"
        )
    return folder / found[0].path if found else None
