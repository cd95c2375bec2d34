"""What a bundle says about itself: where it came from, what was taken, left and checked, and what is still to run.

The manifest is written last. A folder without one, or with one that cannot be read, is not a bundle.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from preheat import __version__
from preheat.bundle.typed import first_wrong
from preheat.checks import Checks
from preheat.errors import NotABundleError

#: Grows when an older Preheat could no longer read what this one writes; part of every bundle's digest.
LAYOUT = 1

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
#: What a warm start takes besides: see `formats.training_state`. The tensors' file is not there when there are none.
STATE = "state.json"
STATE_TENSORS = "state.safetensors"


@dataclass(frozen=True)
class Pipeline:
    """The resource that the bundle was made for first; others with the same stages share it."""

    name: str = ""
    namespace: str = ""
    generation: int = 0


@dataclass(frozen=True)
class MergedFacts:
    """One of several checkpoints that were merged, pinned; `tensors` of the bundle are from it, each name counted."""

    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    tensors: int

    def to_json(self) -> dict[str, Any]:
        """For a manifest, or a program."""
        return {
            "uri": self.uri,
            "version": self.version,
            "sizeBytes": self.size_bytes,
            "format": self.format,
            "layout": self.layout,
            "tensors": self.tensors,
        }


@dataclass(frozen=True)
class SourceFacts:
    """The object that was read, pinned."""

    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    average: str = ""  # as in an index
    merged: tuple[MergedFacts, ...] = ()  # what it is made of, if of several


@dataclass(frozen=True)
class TensorFacts:
    """One tensor of the bundle; `crc32` is that of its bytes there, None when nothing computed it."""

    dtype: str
    shape: tuple[int, ...]
    crc32: int | None = None


@dataclass(frozen=True)
class Totals:
    """Sums over the bundle."""

    tensors: int = 0
    parameters: int = 0
    selected_bytes: int = 0
    fetched_bytes: int = 0


@dataclass(frozen=True)
class Left:
    """What the source holds and the bundle does not."""

    state_tensors: int = 0
    state_bytes: int = 0
    opaque: tuple[str, ...] = ()
    excluded_tensors: int = 0  # weights that the convert stage leaves out
    excluded_bytes: int = 0  # that therefore did not travel: those shared with a tensor that did are not counted
    entries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # the state's `tensors` and `bytes`, by key


@dataclass(frozen=True)
class Saved:
    """Of a checkpoint that a training saved: whose it is, where the training was, and how good."""

    model: str
    info: str = ""  # variant of the weights, such as ema=0.9999
    part: str = ""  # of the model; nothing for all of it
    run_id: str = ""
    stage: str = ""
    epoch: int | None = None  # None: the training does not count them
    update: int | None = None
    sample: int | None = None
    metrics: Mapping[str, float | None] = field(default_factory=dict)  # None: not a finite number
    training_state: bool = False  # whether a training can go on from it
    time: float = 0.0  # seconds since the epoch


@dataclass(frozen=True)
class Manifest:
    """The contents of manifest.json."""

    digest: str
    pipeline: Pipeline
    source: SourceFacts
    files: Mapping[str, int]  # bytes by file name
    tensors: Mapping[str, TensorFacts]
    aliases: Mapping[str, str] = field(default_factory=dict)  # tied name -> name in the file
    origins: Mapping[str, int] = field(default_factory=dict)  # name -> which of `source.merged` it is from
    totals: Totals = Totals()
    left: Left = Left()
    state: Any = field(default_factory=dict)  # epoch, step, hyper-parameters: JSON values only
    checks: Checks = field(default_factory=Checks)
    warnings: tuple[str, ...] = ()  # what checks that only warn have found
    stages: tuple[Mapping[str, Any], ...] = ()  # as spelled; they run in the training process
    continue_on_error: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    preheat: str = __version__
    checksums: Mapping[str, int] = field(default_factory=dict)  # CRC-32 of whole files by name, of those that have one
    state_checksums: Mapping[str, int] = field(default_factory=dict)  # CRC-32 of the state's tensors by name
    shard_checksums: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # the same by file, of each shard
    saved: Saved | None = None  # by a training; None: made by a loader

    def lines(self) -> Iterator[str]:
        """The document bit by bit, keys in a fixed order, a line for each tensor."""
        # json's fast encoder knows no indentation, and many tensors would take several times as long.
        encode = json.JSONEncoder(default=vars).encode
        mark = "{\n"
        for name, value in _document(self).items():
            yield f"{mark} {encode(name)}: "
            yield from _lines(value, encode)
            mark = ",\n"
        yield "\n}"

    def to_json(self) -> str:
        """The document."""
        return "".join(self.lines())

    @classmethod
    def from_json(cls, text: str | bytes) -> Manifest:
        """The manifest of a document; raises NotABundleError when it is none that this version understands."""
        try:
            document = json.loads(text)
            layout = document["layout"]
            if layout == LAYOUT:
                manifest = _manifest(document)
                if wrong := first_wrong(manifest):
                    raise TypeError(f"its {wrong} is of another type")
                return manifest
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise NotABundleError(f"its manifest cannot be read ({type(error).__name__}: {error})") from error
        raise NotABundleError(
            f"its manifest has layout {layout!r}, this Preheat reads layout {LAYOUT}",
            remedy="Use the same Preheat version in loader and training image",
        )


def _lines(value: Any, encode: Callable[[Any], str]) -> Iterator[str]:
    if not isinstance(value, Mapping) or not value:
        yield encode({} if isinstance(value, Mapping) else value)
        return
    mark = "{\n"
    for name, entry in value.items():
        yield f"{mark}  {encode(name)}: {encode(entry)}"
        mark = ",\n"
    yield "\n }"


def _document(manifest: Manifest) -> dict[str, Any]:
    source, totals, left = manifest.source, manifest.totals, manifest.left
    return {
        "layout": LAYOUT,
        "preheat": manifest.preheat,
        "digest": manifest.digest,
        "pipeline": vars(manifest.pipeline),
        "source": {
            "uri": source.uri,
            "version": source.version,
            "sizeBytes": source.size_bytes,
            "format": source.format,
            "layout": source.layout,
            "average": source.average,
            **({"merged": [each.to_json() for each in source.merged]} if source.merged else {}),
        },
        "files": {name: _file(manifest, name) for name in manifest.files},
        "tensors": manifest.tensors,
        "aliases": dict(manifest.aliases),
        **({"origins": manifest.origins} if manifest.origins else {}),
        "totals": {
            "tensors": totals.tensors,
            "parameters": totals.parameters,
            "selectedBytes": totals.selected_bytes,
            "fetchedBytes": totals.fetched_bytes,
        },
        "left": {
            "stateTensors": left.state_tensors,
            "stateBytes": left.state_bytes,
            "opaque": left.opaque,
            "excludedTensors": left.excluded_tensors,
            "excludedBytes": left.excluded_bytes,
            "entries": left.entries,
        },
        "state": manifest.state,
        "checks": manifest.checks.to_json(),
        "warnings": manifest.warnings,
        "stages": manifest.stages,
        "continueOnError": manifest.continue_on_error,
        "seconds": dict(manifest.seconds),
        **({"stateChecksums": dict(manifest.state_checksums)} if manifest.state_checksums else {}),
        **({"shardChecksums": manifest.shard_checksums} if manifest.shard_checksums else {}),
        **({"saved": _of_saved(manifest.saved)} if manifest.saved else {}),
    }


def _file(manifest: Manifest, name: str) -> dict[str, int]:
    known = {"crc32": manifest.checksums[name]} if name in manifest.checksums else {}
    return {"bytes": manifest.files[name], **known}


def _of_saved(saved: Saved) -> dict[str, Any]:
    return {
        "model": saved.model,
        "info": saved.info,
        "part": saved.part,
        "runId": saved.run_id,
        "stage": saved.stage,
        "position": {"epoch": saved.epoch, "update": saved.update, "sample": saved.sample},
        "metrics": dict(saved.metrics),
        "trainingState": saved.training_state,
        "time": saved.time,
    }


def _saved(document: Mapping[str, Any]) -> Saved:
    position = document["position"]
    return Saved(
        *(document["model"], document["info"], document["part"], document["runId"], document["stage"]),
        *(position["epoch"], position["update"], position["sample"]),
        *(document["metrics"], document["trainingState"], document["time"]),
    )


def _merged(document: Mapping[str, Any]) -> MergedFacts:
    named = ("uri", "version", "sizeBytes", "format", "layout", "tensors")
    return MergedFacts(*(document[name] for name in named))


def _manifest(document: Mapping[str, Any]) -> Manifest:
    source, totals, left = document["source"], document["totals"], document["left"]
    return Manifest(
        digest=document["digest"],
        pipeline=Pipeline(**document["pipeline"]),
        source=SourceFacts(
            *(source["uri"], source["version"], source["sizeBytes"], source["format"], source["layout"]),
            average=source.get("average", ""),
            merged=tuple(map(_merged, source.get("merged", ()))),
        ),
        files={name: entry["bytes"] for name, entry in document["files"].items()},
        tensors={
            name: TensorFacts(entry["dtype"], tuple(entry["shape"]), entry["crc32"])
            for name, entry in document["tensors"].items()
        },
        aliases=document["aliases"],
        origins=document.get("origins", {}),
        totals=Totals(totals["tensors"], totals["parameters"], totals["selectedBytes"], totals["fetchedBytes"]),
        left=Left(
            *(left["stateTensors"], left["stateBytes"], tuple(left["opaque"])),
            *(left.get("excludedTensors", 0), left.get("excludedBytes", 0), left.get("entries", {})),
        ),
        state=document["state"],
        checks=Checks.from_json(document["checks"]),
        warnings=tuple(document.get("warnings", ())),
        stages=tuple(document["stages"]),
        continue_on_error=document["continueOnError"],
        seconds=document["seconds"],
        preheat=document["preheat"],
        checksums={name: entry["crc32"] for name, entry in document["files"].items() if "crc32" in entry},
        state_checksums=document.get("stateChecksums", {}),
        shard_checksums=document.get("shardChecksums", {}),
        saved=_saved(document["saved"]) if document.get("saved") else None,
    )
