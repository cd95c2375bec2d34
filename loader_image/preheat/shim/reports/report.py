"""What was done to a model: one line for a person, one JSON line for a log, one JSON file with every name."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir
from typing import Any

from preheat.amounts import size_text
from preheat.paths import some
from preheat.shim.reports.facts import modifier_text
from preheat.strategies.leaving import asked_for

log = logging.getLogger("preheat")

# A log line of a container is cut at 16 KiB; names beyond these are in the file.
_SHOWN = 20


@dataclass(frozen=True)
class Report:
    """Names are those of the model, except for `skipped`, which are the checkpoint's. Seconds by phase."""

    pipeline: str
    source: str
    version: str
    strategy: str
    loaded: tuple[str, ...]
    skipped: Mapping[str, str]  # name -> reason
    left_initial: Mapping[str, str]  # name -> reason
    casts: Mapping[str, str]  # name -> `F32 -> BF16`
    modifiers: tuple[Mapping[str, Any], ...]  # what each modifier says of itself
    size: int  # bytes loaded
    seconds: Mapping[str, float]  # open, match, load, modify, total; wait: for other ranks, part of the others
    rank: int = 0
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()  # what checks that only warn have found, the loader's too
    resized: Mapping[str, str] = field(default_factory=dict)  # name -> how the checkpoint's size became the model's
    added: tuple[str, ...] = ()  # tensors that the model did not have before
    sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the model's tensors
    skipped_sizes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # of the checkpoint's
    read: int = 0  # bytes of the bundle that this process read
    partial: int = 0  # tensors of which this process holds a part
    ranks: int = 1  # processes that agreed on all this
    memory: Mapping[str, int] = field(default_factory=dict)  # bytes, see `usage`
    resumed: Mapping[str, Any] = field(default_factory=dict)  # what a warm start told and restored
    merged: tuple[Mapping[str, str], ...] = ()  # uri and version of the checkpoints that the source was merged from
    origins: Mapping[str, int] = field(default_factory=dict)  # name of what was loaded or skipped -> which of `merged`
    resume: Mapping[str, Any] = field(default_factory=dict)  # which checkpoint of the run was taken, and which not
    failure: Mapping[str, str] = field(default_factory=dict)  # reason, message, remedy; why nothing was loaded
    state: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)  # of a warm start, in no document

    @property
    def frozen(self) -> int:
        """Tensors that the pipeline froze."""
        return sum(int(entry.get("total_frozen_params", 0)) for entry in self.modifiers)

    @property
    def rate(self) -> float:
        """Bytes per second while bytes moved."""
        return self.size / max(self.seconds.get("load", 0.0), 1e-9)

    def by_origin(self) -> list[dict[str, Any]]:
        """The checkpoints that were merged, with how many tensors of each were loaded and skipped."""
        loaded, skipped = (Counter(map(self.origins.get, names)) for names in (self.loaded, self.skipped))
        return [{**each, "loaded": loaded[n], "skipped": skipped[n]} for n, each in enumerate(self.merged)]

    def line(self) -> str:
        """One line for a person."""
        if self.failure:
            remedy = f". {self.failure['remedy']}" if self.failure["remedy"] else ""
            why = f"{self.failure['reason']}: {self.failure['message']}{remedy}"
            return f"{self._who()}: NO CHECKPOINT, the training goes on from its initial weights: {why}"
        facts = [
            f"{self._loaded()} from {self.source} version {self.version}",
            ", ".join(f"{each['loaded']} of {each['uri']}" for each in self.by_origin()),
            self.skipped and f"skipped {len(self.skipped)} ({some(f'{n}: {r}' for n, r in self.skipped.items())})",
            self.left_initial and f"left at initial value: {some(map(_left_line, self.left_initial.items()))}",
            self.casts
            and f"cast {', '.join(f'{count} {cast}' for cast, count in Counter(self.casts.values()).items())}",
            self.resized and f"resized {len(self.resized)} ({some(f'{n}: {how}' for n, how in self.resized.items())})",
            *map(modifier_text, self.modifiers),
            *self.notes,
            *(f"warning: {warning}" for warning in self.warnings),
        ]
        return f"{self._who()}: {'; '.join(str(fact) for fact in facts if fact)}"

    def _who(self) -> str:
        alone = not self.rank and os.environ.get("WORLD_SIZE", "1") in ("", "1")
        return "Preheat" if alone else f"Preheat, rank {self.rank}"

    def _loaded(self) -> str:
        if not self.loaded:
            return f"weights loaded by a stage of the pipeline's own ({self.strategy})"
        count = f"{len(self.loaded)} of {len(self.loaded) + len(self.left_initial)} tensors"
        part = f", parts of {self.partial}" if self.partial else ""
        return f"loaded {count} ({size_text(self.size)}, {size_text(self.rate)}/s{part})"

    def to_mapping(self, shown: int | None = None) -> dict[str, Any]:
        """JSON values; with `shown`, at most so many names of what was not simply loaded, and none of what was."""
        document: dict[str, Any] = {
            "pipeline": self.pipeline,
            "rank": self.rank,
            "source": {"uri": self.source, "version": self.version},
            "merged": self.by_origin(),
            "strategy": self.strategy,
            "failure": dict(self.failure) or None,
            "totals": {
                "loaded": len(self.loaded),
                "skipped": len(self.skipped),
                "leftInitial": len(self.left_initial),
                "cast": len(self.casts),
                "resized": len(self.resized),
                "added": len(self.added),
                "frozen": self.frozen,
                "bytes": self.size,
                "bytesRead": self.read,
                "partial": self.partial,
            },
            "ranks": self.ranks,
            "skipped": dict(list(self.skipped.items())[:shown]),
            "leftInitial": dict(list(self.left_initial.items())[:shown]),
            "casts": Counter(self.casts.values()) if shown else dict(self.casts),
            "resized": dict(list(self.resized.items())[:shown]),
            "modifiers": [_brief(entry) for entry in self.modifiers] if shown else self.modifiers,
            "seconds": {phase: round(value, 6) for phase, value in self.seconds.items()},
            "gigabytesPerSecond": round(self.rate / 1e9, 6) if self.size else None,
            "memory": dict(self.memory),
            "resumed": dict(self.resumed) or None,
            "resume": dict(self.resume) or None,
            "notes": self.notes,
            "warnings": self.warnings[:shown],
        }
        if shown:
            return document
        names = {"loaded": self.loaded, "added": self.added, "origins": dict(self.origins)}
        return {**document, **names, "tensors": self.sizes, "skippedTensors": self.skipped_sizes}


def _brief(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a modifier says of itself, without what became of every tensor."""
    return {key: value for key, value in entry.items() if key != "tensors"}


def publish(report: Report) -> None:
    """Say it in the log, on stderr and in a file; the file is a convenience, a full disk does not stop a training."""
    if log.hasHandlers() and log.isEnabledFor(logging.INFO) and not report.failure:  # that is seen, whatever logs do
        log.info(report.line())
    else:
        print(report.line(), file=sys.stderr)
    print(f"preheat.report {_json(report.to_mapping(_SHOWN))}", file=sys.stderr, flush=True)
    path = report_path(report.rank)
    partial = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        partial.write_text(_json(report.to_mapping()))
        os.replace(partial, path)
    except OSError as error:
        log.debug("no report in %s: %s", path, error)


def report_path(rank: int) -> Path:
    """PREHEAT_REPORT, with the rank in its name for all ranks but the first; else a file among the temporary ones."""
    if wanted := os.environ.get("PREHEAT_REPORT"):
        path = Path(wanted)
        return path.with_name(f"{path.stem}-rank{rank}{path.suffix}") if rank else path
    return Path(gettempdir(), f"preheat-report-rank{rank}.json")


def rank() -> int:
    """This process's number among those of the training, as its launcher gave it; 0 without one."""
    for variable in ("RANK", "LOCAL_RANK", "SLURM_PROCID"):
        if (value := os.environ.get(variable, "")).isdigit():
            return int(value)
    return 0


def _left_line(left: tuple[str, str]) -> str:
    name, reason = left
    return f"{name} ({reason})" if asked_for(reason) else name


def _json(document: Mapping[str, Any]) -> str:
    return json.dumps(document, separators=(",", ":"), default=str)
