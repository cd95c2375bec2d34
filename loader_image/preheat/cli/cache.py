"""`preheat cache`: the bundles on a volume, and what may go."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.amounts import size_text
from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from preheat.bundle.contents import Bundle, Contents, Unfinished
    from preheat.bundle.eviction import Collected, Policy
    from preheat.bundle.store import Store

cache = typer.Typer(help="List and remove the bundles on a volume.", no_args_is_help=True)

Volume = Annotated[
    Path,
    typer.Option(
        "--volume",
        metavar="DIR",
        envvar="PREHEAT_VOLUME",
        help="The folder that holds `bundles`: where the claim is mounted, or the --output of `run`.",
    ),
]


@cache.command("ls")
def list_bundles(volume: Volume, as_json: Json = False) -> None:
    """List bundles and what is to become one, those first that were not used for longest. Changes nothing."""
    with answering(as_json):
        from preheat.bundle.store import Store
        from preheat.verbs.volume import list_bundles as listing

        found, store = listing(volume), Store(volume)
    if as_json:
        show_json(_listed(store, found))
    else:
        from preheat.cli.cache_tables import listed

        show(*listed(store, found, time.time()))


@cache.command("rm")
def remove_bundles(
    digests: Annotated[list[str], typer.Argument(metavar="DIGEST...", help="As `ls` shows them.")],
    volume: Volume,
    force: Annotated[bool, typer.Option("--force", help="Also those that pods refer to.")] = False,
    as_json: Json = False,
) -> None:
    """Remove bundles by name: all that are named, or none."""
    with answering(as_json):
        from preheat.verbs.volume import remove_bundles as remove

        removed = remove(volume, digests, force=force)
    if as_json:
        show_json({"outcome": "removed", "bundles": [bundle.digest for bundle in removed]})
    else:
        show(*(f"removed {bundle.digest}, {size_text(bundle.size)}" for bundle in removed))


@cache.command("gc")
def collect_garbage(
    volume: Volume,
    max_size: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Such as 200GiB: evict the longest unused bundles beyond it.")
    ] = None,
    living_pods: Annotated[
        str | None, typer.Option(metavar="FILE", help="Uids of all pods that live, - for standard input.")
    ] = None,
    pod_lifetime: Annotated[
        str | None, typer.Option(metavar="TIME", help="Such as 14d: no pod lives longer than that.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be removed, and change nothing.")] = False,
    as_json: Json = False,
) -> None:
    """Remove what is forgotten, pods' folders that are known to be over, and bundles beyond a size. None in use."""
    with answering(as_json):
        from preheat.verbs.volume import collect_bundles

        policy = _policy(max_size, living_pods, pod_lifetime)
        done = collect_bundles(volume, **vars(policy), dry_run=dry_run)
    if as_json:
        show_json(_collected(done, policy, dry_run))
    else:
        from preheat.cli.cache_tables import collected

        show(*collected(done, policy, dry_run))


def _policy(max_size: str | None, living_pods: str | None, pod_lifetime: str | None) -> Policy:
    from preheat.amounts import bytes_of, seconds_of
    from preheat.bundle.eviction import Policy

    return Policy(
        bytes_of(max_size) if max_size is not None else None,
        _uids(living_pods) if living_pods is not None else None,
        seconds_of(pod_lifetime) if pod_lifetime is not None else None,
    )


def _uids(file: str) -> frozenset[str]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise CheckpointConfigError(f"{file} cannot be read: {reason}") from error
    return frozenset(text.split())


def _listed(store: Store, found: Contents) -> dict[str, Any]:
    return {
        "volume": str(store.root.absolute()),
        "bytes": found.size,
        "pods": sum(pod.finished for pod in found.pods),
        "bundles": [_described(store, bundle) for bundle in found.bundles],
        "unfinished": [_unfinished(each) for each in found.unfinished],
    }


def _described(store: Store, bundle: Bundle) -> dict[str, Any]:
    found = store.find(bundle.digest)
    return {
        "digest": bundle.digest,
        "source": {"uri": found[1].source.uri, "version": found[1].source.version} if found else None,
        "tensors": found[1].totals.tensors if found else None,
        "bytes": bundle.size,
        "made": _when(bundle.made),
        "used": _when(bundle.used),
        "pods": list(bundle.pods),
    }


def _unfinished(each: Unfinished) -> dict[str, Any]:
    return {"digest": each.digest, "maker": each.maker, "bytes": each.size, "seen": _when(each.seen)}


def _collected(done: Collected, policy: Policy, dry_run: bool) -> dict[str, Any]:
    return {
        "outcome": "planned" if dry_run else "collected",
        "bundles": [{"digest": bundle.digest, "bytes": bundle.size} for bundle in done.bundles],
        "unfinished": [_unfinished(each) for each in done.unfinished],
        "pods": [pod.uid for pod in done.pods],
        "bytes": done.left.size,
        "maxBytes": policy.max_size,
    }


def _when(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
