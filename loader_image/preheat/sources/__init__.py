"""Where checkpoints come from: one file per source."""

from preheat.sources.fallback import FallbackSource
from preheat.sources.fsspec import FsspecSource
from preheat.sources.http import HTTPSource
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.sources.local import LocalSource
from preheat.sources.s3 import S3Source
from preheat.stage import CheckpointSource

#: Sources that name one place each.
PLACES: dict[str, type[CheckpointSource]] = {
    "http": HTTPSource,
    "local": LocalSource,
    "s3": S3Source,
    "fsspec": FsspecSource,
    "hugging_face": HuggingFaceSource,
}
SOURCES: dict[str, type[CheckpointSource]] = {**PLACES, "fallback": FallbackSource}
