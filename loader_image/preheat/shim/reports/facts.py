"""The run of a report in a few lines, for the table and for the page; and reading a report. Pure but for `read`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preheat.amounts import size_text
from preheat.errors import CheckpointConfigError

_SHAPE = {
    **dict.fromkeys(("totals", "source", "skipped", "leftInitial", "casts", "tensors", "skippedTensors"), dict),
    **{"strategy": str, "loaded": list, "modifiers": list, "seconds": dict, "notes": list},
}

_ABSENT, _WARNING = "no checkpoint", "warning"
#: Names of facts that nobody should miss.
ALERTS = frozenset((_ABSENT, _WARNING))


def read(path: Path) -> dict[str, Any]:
    """The report in a file; raises CheckpointConfigError for what is none."""
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointConfigError(
            f"{path} cannot be read: {error.strerror}",
            remedy="Name the file that PREHEAT_REPORT named in the training process",
        ) from error
    except ValueError as error:
        raise CheckpointConfigError(f"{path} is not JSON: {error}") from error
    if not isinstance(report, dict) or any(not isinstance(report.get(key), kind) for key, kind in _SHAPE.items()):
        raise CheckpointConfigError(
            f"{path} is not a report",
            remedy="A training process writes one when its checkpoint is applied, where PREHEAT_REPORT says",
        )
    return report


def facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values."""
    totals, seconds, source = report["totals"], report["seconds"], report["source"]
    if failure := report.get("failure"):
        yield _ABSENT, f"{failure['reason']}: {failure['message']}"
        if failure["remedy"]:
            yield "remedy", failure["remedy"]
    yield "pipeline", report.get("pipeline") or "without a name"
    yield from ((name, source[key]) for name, key in (("source", "uri"), ("version", "version")) if source.get(key))
    for each in report.get("merged", ()):
        skipped = f", {each['skipped']} skipped" if each["skipped"] else ""
        yield "merged", f"{each['loaded']} tensors of {each['uri']}{skipped}; version {each['version']}"
    yield "strategy", report["strategy"]
    yield "loaded", "nothing" if failure else _loaded(totals, seconds.get("load", 0.0))
    if (ranks := report.get("ranks", 1)) > 1:
        partial = f"it holds parts of {totals.get('partial', 0)} tensors"
        yield "rank", f"{report.get('rank', 0)} of {ranks}, which agree; {partial}"
    if seconds:
        yield "took", ", ".join(f"{phase} {value:.3f} s" for phase, value in seconds.items())
    if memory := report.get("memory"):
        yield "memory", _memory(memory)
    for entry in report["modifiers"]:
        yield "modifier", modifier_text(entry)
    for note in report["notes"]:
        yield "note", note
    for warning in report.get("warnings", ()):
        yield _WARNING, warning


def modifier_text(entry: Mapping[str, Any]) -> str:
    """What a modifier did, in a few words: its own if it has any."""
    return str(entry.get("says") or entry.get("type", "a stage of the pipeline's own"))


def _memory(memory: Mapping[str, int]) -> str:
    said = [f"{size_text(memory['peak'])} resident at most"]
    if "raised" in memory:
        said.append(f"loading raised that by {size_text(memory['raised'])}")
    if "devicePeak" in memory:
        raised = f"; loading raised that by {size_text(memory.get('deviceRaised', 0))}"
        said.append(f"{size_text(memory['devicePeak'])} on the device at most{raised}")
    return ", ".join(said)


def _loaded(totals: Mapping[str, int], seconds: float) -> str:
    count, size = totals.get("loaded", 0), totals.get("bytes", 0)
    if not count:
        return "by a stage of the pipeline's own"
    rate = f", {size_text(size / seconds)}/s" if seconds and size else ""
    return f"{count} of {count + totals.get('leftInitial', 0)} tensors ({size_text(size)}{rate})"
