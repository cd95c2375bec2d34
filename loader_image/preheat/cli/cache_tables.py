"""What `preheat cache` shows to a person."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table

from preheat.amounts import ago
from preheat.bundle.contents import Bundle, Contents, Unfinished, manifest_of
from preheat.bundle.eviction import Collected, Policy
from preheat.bundle.storage import megabytes
from preheat.terminal import count_of, plain


def listed(found: Contents, now: float) -> Iterator[RenderableType]:
    """Bundles, what is to become one, and a sentence about all of them."""
    if found.bundles:
        table = _table("digest", "source", "size", "tensors", "made", "used", "pods")
        for bundle in found.bundles:
            table.add_row(*map(plain, _row(bundle, now)))
        yield table
    if found.unfinished:
        table = _table("unfinished", "maker", "on disk", "last sign of life")
        for each in found.unfinished:
            who = each.maker or "nobody: it is being removed"
            row = (each.digest or "-", who, megabytes(each.size), f"{ago(now - each.seen)} ago")
            table.add_row(*map(plain, row))
        yield table
    pods = sum(pod.finished for pod in found.pods)
    yield f"{count_of(len(found.bundles), 'bundle')}, {megabytes(found.size)}; {count_of(pods, 'pod')} on record"


def collected(done: Collected, policy: Policy, dry_run: bool) -> Iterator[str]:
    """A line for everything that was removed, and whether what is left fits."""
    verb = "would remove" if dry_run else "removed"
    for bundle in done.bundles:
        yield f"{verb} bundle {bundle.digest}, {megabytes(bundle.size)}"
    for each in done.unfinished:
        yield f"{verb} {_unfinished(each)}, {megabytes(each.size)}"
    for pod in done.pods:
        yield f"{verb} the folder of pod {pod.uid}"
    left = done.left
    yield f"{count_of(len(left.bundles), 'bundle')}, {megabytes(left.size)} left"
    if policy.max_size is not None and left.size > policy.max_size:
        used = sum(bool(bundle.pods) for bundle in left.bundles)
        yield (
            f"that is more than {megabytes(policy.max_size)}: {count_of(used, 'bundle')} belong to pods, "
            f"{len(left.bundles) - used} were used in the last minutes. Which pods have ended is not to be seen here: "
            "see --living-pods and --pod-lifetime"
        )


def _row(bundle: Bundle, now: float) -> tuple[str, ...]:
    manifest = manifest_of(bundle)
    source = f"{manifest.source.uri}\n{manifest.source.version}" if manifest else "damaged"
    tensors = f"{manifest.totals.tensors:,}" if manifest else "-"
    times = (f"{ago(now - bundle.made)} ago", f"{ago(now - bundle.used)} ago")
    return (bundle.digest, source, megabytes(bundle.size), tensors, *times, str(len(bundle.pods)))


def _unfinished(each: Unfinished) -> str:
    return f"what {each.maker} began of {each.digest}" if each.maker else "the remains of a bundle"


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, overflow="fold", no_wrap=name in ("digest", "unfinished"))
    return table
