"""What `kubectl preheat status` says to people."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from preheat.amounts import ago, count_of, parameters_text, size_text
from preheat.terminal import plain
from preheat_operator.deaths import by_checkpoint, deaths_of
from preheat_operator.plugin.pipeline_view import Object, PipelineView, PodLine
from preheat_operator.plugin.text import coloured, facts, grid
from preheat_operator.plugin.upload_text import uploads

_MOST_PODS = 40
_NEWS = {"True": "loaded", "Unknown": "unknown", "False": "failed"}
#: What the states of conditions mean, as phases whose colours they have; Reconciling is neither good nor bad.
_MEANS = {"Ready": _NEWS, "SourceResolved": {**_NEWS, "Unknown": ""}, "Stalled": {"True": "failed"}}
_COUNTED = ("loading", "loaded", "continued", "failed", "missed")


def shown(found: PipelineView, now: datetime | None = None) -> Iterator[RenderableType]:
    """A pipeline from its conditions down to the failures of its pods; `now` is in UTC."""
    now = now or datetime.now(UTC)
    yield Text(f"{found.name} in {found.namespace}, generation {found.generation}")
    if found.status.get("observedGeneration") != found.generation:
        yield Text("  the controller has not seen this generation yet: is it running?", "yellow")
    yield _conditions(found.status, now)
    yield ""
    yield facts(
        [
            *_source(found.status),
            *_check(found.status, now),
            *_resume(found.status, now),
            *_deaths(found.status, now),
            *_counts(found),
            *uploads(found.status, now),
        ]
    )
    if found.pods:
        yield ""
        yield _pods(found, now)
    for failure in found.status.get("failures") or ():
        yield ""
        yield _failure(failure, now)


def _conditions(status: Object, now: datetime) -> Table:
    table = grid(2, *[False] * 5, True)
    for each in status.get("conditions") or ():
        since, means = _since(each["lastTransitionTime"], now), _MEANS.get(each["type"], {}).get(each["status"])
        table.add_row(
            "", each["type"], coloured(each["status"], means or ""), each["reason"], since, plain(each["message"])
        )
    return table


def _source(status: Object) -> Iterator[tuple[str, str | None]]:
    source = status.get("source") or {}
    yield "source", source.get("uri")
    yield "version", source.get("version")
    yield "format", source.get("format")
    for each in source.get("merged") or ():
        yield "merged", f"{count_of(each.get('tensors', 0), 'tensor')} of {each.get('uri')}"
    if "tensors" in source:
        parameters = f", {parameters_text(source['parameters'])}" if "parameters" in source else ""
        yield "takes", count_of(source["tensors"], "tensor") + parameters + _sizes(source)
    for warning in source.get("warnings") or ():
        yield "warning", warning


def _sizes(source: Object) -> str:
    if "selectedBytes" not in source:
        return ""
    of = f" of {size_text(source['sizeBytes'])}" if "sizeBytes" in source else ""
    return f", {size_text(source['selectedBytes'])}{of}"


def _check(status: Object, now: datetime) -> Iterator[tuple[str, str | None]]:
    check = status.get("check") or {}
    if not check:
        return
    when = f"{_since(check['time'], now)} ago"
    if check.get("reason"):
        yield "check", f"failed {when}: {check['reason']}: {check.get('message', '')}"
        yield "do", check.get("remedy")
    pinned = f"pods get version {check['version']}" if check.get("version") else ""
    if pinned or not check.get("reason"):
        yield "check", f"{pinned or 'found'}, as of {when}"
    for warning in check.get("warnings") or ():
        yield "warning", warning


def _resume(status: Object, now: datetime) -> Iterator[tuple[str, str | None]]:
    """What the newest pod goes on from, where the pipeline resumes a run."""
    if not (told := status.get("resume")):
        return
    what = f"{told['checkpoint']} ({told['strategy']})" if told.get("checkpoint") else "nothing: the stages ran"
    yield "resumed", f"{what} of {told['run']}, by pod {told['pod']} {_since(told['time'], now)} ago"
    for each in told.get("passed") or ():
        yield "passed over", f"{each['checkpoint']}: {each['why']}"
    if more := told.get("morePassed"):
        yield "passed over", f"{more} more"


def _deaths(status: Object, now: datetime) -> Iterator[tuple[str, str | None]]:
    """On which checkpoints of the run trainings have died, as far as pods tell of it."""
    for found in by_checkpoint(deaths_of(status)):
        last = found[0]
        who = f"the last of {len(found)}" if found[1:] else "one"
        when = f"{_since(last.time, now)} ago ({last.reason})"
        yield "died", f"on {last.checkpoint} of {last.run}: {who} in pod {last.pod} {when}"


def _counts(found: PipelineView) -> Iterator[tuple[str, str | None]]:
    counts = found.status.get("pods") or {}
    said = [f"{counts[phase]} {phase}" for phase in _COUNTED if counts.get(phase)]
    unread = "; you may not list them" if found.pods is None else ""
    yield "pods", (", ".join(said) or "none") + unread
    if progress := found.status.get("progress"):
        left = f"{_left(progress)} left" if "etaSeconds" in progress else ""
        yield "loading", ", ".join(filter(None, (_share(progress), _rate(progress), left)))


def _pods(found: PipelineView, now: datetime) -> Table:
    table = grid(2, False, True, *[False] * 8)
    table.add_row("", "POD", "PHASE", "AGE", "TOOK", "READ", "RATE", "LEFT", "RUNS", "GEN")
    for each in (found.pods or ())[:_MOST_PODS]:
        table.add_row("", *_pod(each, now))
    if len(found.pods or ()) > _MOST_PODS:
        table.add_row("", f"... and {len(found.pods or ()) - _MOST_PODS} more; -o json has them all")
    return table


def _pod(line: PodLine, now: datetime) -> tuple[str | Text, ...]:
    loader, progress = line.loader, line.progress
    read = "" if loader.fetched_bytes is None else size_text(loader.fetched_bytes)
    rate = f"{size_text(loader.bytes_per_second)}/s" if loader.bytes_per_second else ""
    return (
        line.name,
        coloured(loader.phase),
        _since(line.created, now),
        f"{loader.seconds:.1f} s" if loader.seconds is not None else "",
        _share(progress) if progress else read,
        _rate(progress) if progress else rate,
        _left(progress) if progress else "",
        str(loader.runs or ""),
        str(line.generation or ""),
    )


def _share(progress: Object) -> str:
    """How far a loader is, or all of them are; before that is known, what it does."""
    if not progress["bytesTotal"]:
        return str(progress.get("phase", ""))
    return f"{progress['bytesDone'] * 100 // progress['bytesTotal']}% of {size_text(progress['bytesTotal'])}"


def _rate(progress: Object) -> str:
    return f"{size_text(progress['bytesPerSecond'])}/s" if progress["bytesPerSecond"] else ""


def _left(progress: Object) -> Text | str:
    if stalled := progress.get("stalledSeconds"):
        return Text(f"nothing for {stalled} s", "red")
    return f"{progress['etaSeconds']} s" if "etaSeconds" in progress else ""


def _failure(failure: Object, now: datetime) -> Table:
    head = f"{failure['reason']} in pod {failure['pod']}, {_since(failure['time'], now)} ago"
    table = Table.grid()
    table.add_row(Text(f"  {head}", "red"))
    for text in (failure.get("message"), failure.get("remedy")):
        if text:
            table.add_row(Text(f"    {plain(text)}"))
    return table


def _since(time: str, now: datetime) -> str:
    try:
        return ago((now - datetime.fromisoformat(time)).total_seconds())
    except ValueError:
        return ""
