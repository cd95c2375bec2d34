"""What `preheat cache` shows to a person."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from preheat.amounts import ago, count_of, size_text
from preheat.bundle.contents import Bundle, Contents, Unfinished
from preheat.bundle.eviction import Collected, Policy
from preheat.bundle.store import Store
from preheat.terminal import plain


def listed(store: Store, found: Contents, now: float) -> Iterator[RenderableType]:
    """Bundles, what is to become one, and a sentence that counts them."""
    if found.bundles:
        table = _table("bundle", "size", "tensors", "age", "unused", "pods")
        for bundle in found.bundles:
            table.add_row(*_row(store, bundle, now))
        yield table
    if found.unfinished:
        table = _table("unfinished", "on disk", "last sign of life")
        for each in found.unfinished:
            what = plain(each.digest or "being removed")
            if each.digest:
                who = f"by {each.maker}" if each.maker else "left for the next loader"
                what = Text("\n").join([what, plain(who)])
            table.add_row(what, size_text(each.size), f"{ago(now - each.seen)} ago")
        yield table
    pods = sum(pod.finished for pod in found.pods)
    yield f"{count_of(len(found.bundles), 'bundle')}, {size_text(found.size)}; {count_of(pods, 'pod')} on record"


def collected(done: Collected, policy: Policy, dry_run: bool) -> Iterator[str]:
    """A line for everything that was removed, and whether what is left fits."""
    verb = "would remove" if dry_run else "removed"
    for bundle in done.bundles:
        yield f"{verb} bundle {bundle.digest}, {size_text(bundle.size)}"
    for each in done.unfinished:
        yield f"{verb} {_unfinished(each)}, {size_text(each.size)}"
    for pod in done.pods:
        yield f"{verb} the folder of pod {pod.uid}"
    left = done.left
    yield f"{count_of(len(left.bundles), 'bundle')}, {size_text(left.size)} left"
    if policy.max_size is not None and left.size > policy.max_size:
        used = sum(bool(bundle.pods) for bundle in left.bundles)
        yield (
            f"that is more than {size_text(policy.max_size)}: {count_of(used, 'bundle')} belong to pods, "
            f"{len(left.bundles) - used} to loaders that are at work. Which pods have ended is not to be seen here: "
            "see --living-pods and --pod-lifetime"
        )


def _row(store: Store, bundle: Bundle, now: float) -> tuple[str | Text, ...]:
    times = ago(now - bundle.made), ago(now - bundle.used)
    about, tensors = ["damaged: the next loader that needs it makes it anew"], "-"
    if found := store.find(bundle.digest):
        about, tensors = [found[1].source.uri, found[1].source.version], f"{found[1].totals.tensors:,}"
    what = Text("\n").join(map(plain, [bundle.digest, *about]))
    return what, size_text(bundle.size), tensors, *times, str(len(bundle.pods))


def _unfinished(each: Unfinished) -> str:
    if not each.digest:
        return "the remains of a bundle"
    return f"what {each.maker or 'a loader'} began of {each.digest}"


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, overflow="fold", min_width=32)  # a digest
    for name in others:
        table.add_column(name, no_wrap=True)
    return table
