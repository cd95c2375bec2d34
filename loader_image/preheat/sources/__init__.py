"""Where checkpoints come from: one file per source."""

from preheat.sources.fallback import FallbackSource
from preheat.sources.fsspec import FsspecSource
from preheat.sources.http import HTTPSource
from preheat.sources.hugging_face import HuggingFaceSource
from preheat.sources.local import LocalSource
from preheat.sources.merge import MergeSource
from preheat.sources.named import NamedSource
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source
from preheat.stage import CheckpointSource, Place

#: Sources that name one place each.
PLACES: dict[str, type[Place]] = {
    "http": HTTPSource,
    "local": LocalSource,
    "s3": S3Source,
    "fsspec": FsspecSource,
    "hugging_face": HuggingFaceSource,
}
#: Sources that find one of many checkpoints in such a place.
FINDERS: dict[str, type[CheckpointSource]] = {"run": RunSource, "named": NamedSource}
SOURCES: dict[str, type[CheckpointSource]] = {**PLACES, **FINDERS, "fallback": FallbackSource, "merge": MergeSource}
