"""Any checkpoint that can be read becomes one safetensors file on this machine, or several of some size.

They appear whole and after their checks, or not at all; what is there stays unless it is to be replaced. Only weights
are taken: what else a checkpoint holds has no place in such a file.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preheat.blob import Blob, Patience
from preheat.bundle.storage import require_space, storage_errors
from preheat.checks import Checks
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError
from preheat.formats import read_index
from preheat.plan import Plan, checks_of, make_plan
from preheat.progress import Progress, watched
from preheat.spec import PipelineSpec
from preheat.transfer.engine import transfer
from preheat.verbs.appearing import appearing, check_free
from preheat.verbs.location import Where, opened
from preheat.verbs.sharding import index_text, shard_names, shards_of
from preheat.verify import Verify

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Converted:
    """The file that was written, and what became of the checkpoint in it."""

    file: Path  # of several their index
    shards: tuple[Path, ...]  # where the weights are in several files
    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    tensors: int  # that were written
    aliases: Mapping[str, str]  # tied names, which the format has no room for -> the name that is there
    parameters: int
    selected_bytes: int  # of the source, that was taken
    output_bytes: int
    left_tensors: int  # training state
    left_bytes: int
    excluded_tensors: int  # weights that were not selected
    excluded_bytes: int
    checks: Checks  # what there was to check: a file without any CRC-32 has none compared
    records: int  # whose CRC-32 was compared
    fetched_bytes: int
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "outcome": "converted",
            "file": str(self.file.absolute()),
            "shards": [str(shard.absolute()) for shard in self.shards],
            "source": {"uri": self.uri, "version": self.version, "sizeBytes": self.size_bytes},
            "format": self.format,
            "layout": self.layout,
            "tensors": self.tensors,
            "aliases": dict(self.aliases),
            "parameters": self.parameters,
            "selectedBytes": self.selected_bytes,
            "outputBytes": self.output_bytes,
            "left": {"tensors": self.left_tensors, "bytes": self.left_bytes},
            "excluded": {"tensors": self.excluded_tensors, "bytes": self.excluded_bytes},
            "checks": self.checks.to_json(),
            "records": self.records,
            "fetchedBytes": self.fetched_bytes,
            "seconds": round(self.seconds, 3),
        }


def convert_checkpoint(
    where: Where,
    target: str | Path,
    convert: Convert | None = None,
    *,
    sha256: str | None = None,
    crc32: bool = True,
    finite: bool = True,
    shard_size: int | None = None,
    force: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the weights of a location or source to the file `target`, changed as a `convert` stage changes them.

    With more than `shard_size` bytes of them they go to numbered files beside it, with an index. Raises StorageError
    when a file exists and `force` is not set, otherwise what a pipeline with these checks would.
    """
    began = time.monotonic()
    target = Path(target)
    _check(target, shard_size)
    check_free(target, force)
    verify = Verify(sha256.lower() if sha256 else None, crc32=crc32, finite=finite)
    spec = PipelineSpec((verify, convert) if convert else (verify,))
    checks = checks_of(spec)
    with opened(where, patience) as blob:
        index = read_index(blob)
        plan = make_plan(index, spec)
        plans = shards_of(plan, verify, shard_size) if shard_size else [plan]
        files = shard_names(target, len(plans)) if len(plans) > 1 else [target]
        for file in files:
            check_free(file, force)
        passing = blob.size if checks.sha256 else plan.selected_bytes
        with appearing(files, force) as scratches, watched(progress, passing) as advance:
            records = _write(plans, scratches, blob, checks, advance)
            if len(plans) > 1:
                _write_index(scratches[-1], dict(zip((file.name for file in files), plans, strict=False)))
        if len(plans) > 1:
            target.unlink(missing_ok=True)  # readers would take the file that was replaced before an index
        return Converted(
            file=files[-1],
            shards=tuple(files[:-1]),
            uri=blob.uri,
            version=blob.version,
            size_bytes=blob.size,
            format=index.format,
            layout=index.layout,
            tensors=len(plan.index.tensors) - len(plan.aliases),
            aliases=plan.aliases,
            parameters=plan.index.parameters,
            selected_bytes=plan.selected_bytes,
            output_bytes=sum(each.output_bytes for each in plans),
            left_tensors=plan.left_tensors,
            left_bytes=plan.left_bytes,
            excluded_tensors=plan.excluded_tensors,
            excluded_bytes=plan.excluded_bytes,
            checks=replace(checks, crc32=records > 0),
            records=records,
            fetched_bytes=blob.fetched,
            seconds=time.monotonic() - began,
        )


def _check(target: Path, shard_size: int | None) -> None:
    if target.suffix != SUFFIX:
        raise CheckpointConfigError(
            f"{target} does not end in {SUFFIX}, and that is what is written", remedy=f"Name it {target.stem}{SUFFIX}"
        )
    if shard_size is not None and shard_size < 1:
        raise CheckpointConfigError(f"files of {shard_size} bytes hold nothing", remedy="Write a size like 5GB")


def _write(
    plans: Sequence[Plan], paths: Sequence[Path], blob: Blob, checks: Checks, advance: Callable[[int], None]
) -> int:
    """Write one file after the other; returns how many records were compared."""
    folder, records = paths[0].parent, 0
    with storage_errors(folder):
        require_space(folder, sum(plan.output_bytes for plan in plans))
    for plan, path in zip(plans, paths, strict=False):
        records += transfer(plan, blob, path, checks, advance).records
        checks = replace(checks, sha256=None)  # the whole object has passed
    return records


def _write_index(path: Path, plans: Mapping[str, Plan]) -> None:
    with storage_errors(path.parent):
        path.write_text(index_text(plans))
