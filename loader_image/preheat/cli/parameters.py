"""Arguments and options that several verbs take."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from preheat.runs.shelf import Shelf
    from preheat.spec import PipelineSpec
    from preheat.stage import CheckpointSource

PipelineFile = Annotated[
    Path,
    typer.Argument(
        metavar="PIPELINE.yaml",
        help="A CheckpointPipeline, or its spec alone. A relative path of a `local` source counts from the current "
        "directory, not from this file.",
    ),
]
Location = Annotated[
    str,
    typer.Argument(metavar="LOCATION", help="s3://bucket/key, hf://org/model, a URL, or the path of a file or folder."),
]
Bandwidth = Annotated[
    str | None,
    typer.Option(
        metavar="RATE", help="Read the source no faster, such as 200MB/s; at least 1MB/s. Default: PREHEAT_BANDWIDTH."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, for programs.")]


def source(location: str, **s3: Any) -> CheckpointSource:
    """The source that a location and the options of S3, named as those of S3Options, describe."""
    from preheat.verbs.location import S3Options, source_of

    return source_of(location, S3Options(**s3))


def held_to(bandwidth: str | None) -> AbstractContextManager[None]:
    """Within it sources are read no faster; raises CheckpointConfigError for what is no rate."""
    from preheat.amounts import bytes_per_second
    from preheat.transfer.pace import bounded

    return bounded(bytes_per_second(bandwidth) if bandwidth else None)


def read_pipeline(path: Path) -> PipelineSpec:
    """The pipeline of a file; raises CheckpointConfigError that names it."""
    from preheat.spec import read

    return read(path)[1]


Runs = Annotated[
    str,
    typer.Argument(metavar="PLACE", help="Where checkpoints are: a folder, s3://bucket/prefix, or a URL of fsspec's."),
]
LayoutName = Annotated[
    str, typer.Option("--layout", metavar="NAME", help="Who saved them; default: whoever is recognised.")
]


def shelf(location: str, layout: str, **s3: Any) -> Shelf:
    """The checkpoints in a place; raises CheckpointConfigError where nothing can be listed."""
    from preheat.runs.shelf import Shelf
    from preheat.stage import Place

    place = source(location, **s3)
    if not isinstance(place, Place):
        raise CheckpointConfigError(f"{place.uri} is no folder of checkpoints")
    return Shelf.look(place, layout)
