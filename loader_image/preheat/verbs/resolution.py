"""From a checkpoint's name to a file on this machine, fetched from a bucket where it is not here yet.

The bucket may be described as linnaeus' configuration does (`ENABLED`, `NAME` or `BUCKET`, `PATH_PREFIX`), as a source,
or by an address such as `s3://zoo/modelZoo/`.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from preheat.blob import Patience
from preheat.bundle.storage import storage_errors
from preheat.errors import CheckpointConfigError
from preheat.joined_blob import JoinedBlob
from preheat.progress import Progress, watched
from preheat.sources.local import LocalSource
from preheat.sources.named import NamedSource
from preheat.sources.places import place_of
from preheat.sources.s3 import S3Source
from preheat.stage import Place
from preheat.transfer.copy import copy
from preheat.verbs.appearing import appearing
from preheat.verbs.location import located

log = logging.getLogger(__name__)

DEFAULT_PREFIX = "modelZoo/"


def resolve_checkpoint_path(
    identifier: str,
    cache_dir: str | Path | None = None,
    bucket: Any = None,
    *,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> str:
    """The path of a checkpoint: an absolute one as it is, a name in `cache_dir`, or fetched into it from `bucket`.

    Never None: raises CheckpointNotFoundError that lists what was tried, and CheckpointConfigError when the name is in
    several folders. A file appears in `cache_dir` whole, however many processes fetch it.
    """
    if not identifier:
        raise CheckpointConfigError("no checkpoint is named", remedy="Give its file name or absolute path")
    source = NamedSource(str(identifier), str(cache_dir) if cache_dir else None, bucket_of(bucket))
    if here := source.found_here():
        if here.is_dir():  # which is a checkpoint only when there is one in it
            LocalSource(str(here)).open(Patience()).close()
        return str(here)
    blob = source.open_in_bucket(patience or Patience())
    try:
        if isinstance(blob, JoinedBlob):
            raise CheckpointConfigError(f"{blob.uri} consists of several files", remedy="Read it with a source: named")
        if not source.cache_dir:
            raise CheckpointConfigError(f"{blob.uri} has to be put somewhere", remedy="Give a cache directory")
        target = Path(source.cache_dir).expanduser() / source.name
        with storage_errors(target.parent):
            target.parent.mkdir(parents=True, exist_ok=True)
        log.info("fetching %s to %s", blob.uri, target)
        with appearing([target], True) as [scratch, *_], watched(progress, blob.size) as advance:
            copy(blob, scratch, advance)
    finally:
        blob.close()
    return str(target)


def bucket_of(described: Any) -> Place | None:
    """The place that a bucket's description means; None when there is none, or it is not enabled."""
    if not described:
        return None
    if isinstance(described, (str, Path)):
        described = located(described)
    if isinstance(described, Mapping) and any(str(key).isupper() for key in described):
        return _of_linnaeus({str(key): value for key, value in described.items()})
    return place_of(described, "bucket")


def _of_linnaeus(settings: Mapping[str, Any]) -> Place | None:
    if not settings.get("ENABLED"):
        return None
    name = settings.get("NAME") or settings.get("BUCKET")
    if not name:
        raise CheckpointConfigError("the bucket is enabled and has no NAME", remedy="Set NAME, or ENABLED: False")
    if settings.get("APP_KEY"):
        log.warning("APP_KEY is not used: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, which no file has to hold")
    prefix = str(settings.get("PATH_PREFIX", DEFAULT_PREFIX)).strip("/")
    # B2 and others are reached by their S3 interface: ENDPOINT here, or AWS_ENDPOINT_URL_S3 in the environment.
    return S3Source(
        str(name), f"{prefix}/", region=settings.get("REGION") or None, endpoint=settings.get("ENDPOINT") or None
    )
