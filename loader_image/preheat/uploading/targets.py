"""Which target is that of a source: one file per target."""

from __future__ import annotations

from typing import TYPE_CHECKING

from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from preheat.blob import Patience
    from preheat.stage import CheckpointSource
    from preheat.uploading.target import Target, Verify


def target_of(place: CheckpointSource, patience: Patience, verify: Verify = "checksum") -> Target:
    """The folder that a source names, to write to; raises CheckpointConfigError where nothing can be written."""
    from preheat.sources.fsspec import FsspecSource
    from preheat.sources.http import HTTPSource
    from preheat.sources.local import LocalSource
    from preheat.sources.s3 import S3Source

    # Each is imported when it is used: botocore alone takes 0.3 s.
    if isinstance(place, S3Source):
        from preheat.uploading.s3_target import S3Target

        return S3Target(place, patience)
    if isinstance(place, HTTPSource):
        from preheat.uploading.http_target import HttpTarget

        return HttpTarget(place, patience, verify)
    if isinstance(place, FsspecSource):
        from preheat.uploading.fsspec_target import FsspecTarget

        return FsspecTarget(place, patience, verify)
    if isinstance(place, LocalSource):
        from preheat.uploading.local_target import LocalTarget

        return LocalTarget(place, verify)
    raise CheckpointConfigError(f"nothing is uploaded to {place.uri}", remedy="Use s3, http, fsspec or a folder")
