"""Any checkpoint that can be read becomes one safetensors file on this machine.

The file appears whole and after its checks, or not at all; one that is there stays unless it is to be replaced. Only
weights are taken: what else a checkpoint holds has no place in such a file.
"""

from __future__ import annotations

import glob
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from preheat.blob import Patience
from preheat.bundle.lease import died_here, owner_here
from preheat.bundle.storage import storage_errors, sync
from preheat.checks import Checks
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError, StorageError
from preheat.formats import read_index
from preheat.plan import checks_of, make_plan
from preheat.progress import Progress, watched
from preheat.spec import PipelineSpec
from preheat.transfer.engine import transfer
from preheat.verbs.location import Where, opened
from preheat.verify import Verify

SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Converted:
    """The file that was written, and what became of the checkpoint in it."""

    file: Path
    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    tensors: int  # in the file
    aliases: Mapping[str, str]  # tied names, which the format has no room for -> the name that is in the file
    parameters: int
    selected_bytes: int  # of the source, that the file is made of
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
            "checks": {"sha256": self.checks.sha256, "crc32": self.checks.crc32, "finite": self.checks.finite},
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
    force: bool = False,
    patience: Patience | None = None,
    progress: Progress | None = None,
) -> Converted:
    """Write the weights of a location or source to the file `target`, changed as a `convert` stage changes them.

    Raises StorageError when the file exists and `force` is not set, otherwise what a pipeline with these checks would.
    """
    began = time.monotonic()
    target = Path(target)
    _check_target(target, force)
    verify = Verify(sha256.lower() if sha256 else None, crc32=crc32, finite=finite)
    spec = PipelineSpec((verify, convert) if convert else (verify,))
    checks = checks_of(spec)
    with opened(where, patience) as blob:
        index = read_index(blob)
        plan = make_plan(index, spec)
        passing = blob.size if checks.sha256 else plan.selected_bytes
        with _appearing(target, force) as scratch, watched(progress, passing) as advance:
            done = transfer(plan, blob, scratch, checks, advance)
        return Converted(
            file=target,
            uri=blob.uri,
            version=blob.version,
            size_bytes=blob.size,
            format=index.format,
            layout=index.layout,
            tensors=len(plan.index.tensors) - len(plan.aliases),
            aliases=plan.aliases,
            parameters=plan.index.parameters,
            selected_bytes=plan.selected_bytes,
            output_bytes=plan.output_bytes,
            left_tensors=plan.left_tensors,
            left_bytes=plan.left_bytes,
            excluded_tensors=plan.excluded_tensors,
            excluded_bytes=plan.excluded_bytes,
            checks=replace(checks, crc32=done.records > 0),
            records=done.records,
            fetched_bytes=blob.fetched,
            seconds=time.monotonic() - began,
        )


def _check_target(target: Path, force: bool) -> None:
    if target.suffix != SUFFIX:
        raise CheckpointConfigError(
            f"{target} does not end in {SUFFIX}, and that is what is written", remedy=f"Name it {target.stem}{SUFFIX}"
        )
    if not target.parent.is_dir():
        raise StorageError(f"there is no folder {target.parent}", remedy="Make it, or correct the path")
    if target.is_dir():
        raise StorageError(f"{target} is a folder", remedy="Name a file")
    if os.path.lexists(target) and not force:
        raise _exists(target)


@contextmanager
def _appearing(target: Path, force: bool) -> Iterator[Path]:
    """A name beside `target` for a file that gets its name when the block ends well, and is gone otherwise."""
    scratch = target.with_name(f".{target.name}.partial-{os.urandom(4).hex()}-{owner_here()}")
    for left in target.parent.glob(f".{glob.escape(target.name)}.partial-*"):
        if died_here(left.name):
            left.unlink(missing_ok=True)
    try:
        yield scratch
        with storage_errors(target.parent):
            sync(scratch)
            _name(scratch, target, force)
            sync(target.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _name(scratch: Path, target: Path, force: bool) -> None:
    """Rename; without `force` by a link, which never takes the place of a file that came meanwhile."""
    if not force:
        try:
            os.link(scratch, target)
            return
        except FileExistsError:
            raise _exists(target) from None
        except OSError:  # a file system without hard links
            if os.path.lexists(target):
                raise _exists(target) from None
    scratch.rename(target)


def _exists(target: Path) -> StorageError:
    return StorageError(f"{target} exists", remedy="Take another name, or replace it with --force (`force=True`)")
