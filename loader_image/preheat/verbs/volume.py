"""The bundles on a volume: which there are, and what may go. The folder is the one that holds `bundles`."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from preheat.bundle.contents import BUNDLES, Bundle, Contents, survey
from preheat.bundle.eviction import Collected, Policy, collect, discard
from preheat.bundle.storage import storage_errors
from preheat.errors import CheckpointConfigError


def list_bundles(volume: Path | str) -> Contents:
    """Bundles, those that were not used for longest first, what is to become one, and the pods that refer to them."""
    root = _volume(volume)
    with storage_errors(root):
        return survey(root)


def remove_bundles(volume: Path | str, digests: Collection[str], *, force: bool = False) -> tuple[Bundle, ...]:
    """Remove the bundles that are named, all or none; those that pods refer to only with `force`."""
    return discard(_volume(volume), digests, force=force)


def collect_bundles(
    volume: Path | str,
    *,
    max_size: int | None = None,
    living: Collection[str] | None = None,
    pod_lifetime: float | None = None,
    dry_run: bool = False,
) -> Collected:
    """Remove what is forgotten, pods that are over, and beyond `max_size` bytes what was not used for longest.

    Which pods are over, `living` says, the uids of all that live, or `pod_lifetime`, the most seconds that one does.
    """
    if living is not None and not living:
        raise CheckpointConfigError(
            "the list of living pods is empty, so it is taken for a mistake",
            remedy="See that it was made; if no pod lives, say so with a pod lifetime of an hour",
        )
    known = None if living is None else frozenset(living)
    return collect(_volume(volume), Policy(max_size, known, pod_lifetime), dry_run=dry_run)


def _volume(path: Path | str) -> Path:
    root = Path(path).expanduser()
    with storage_errors(root):
        if (root / BUNDLES).is_dir():
            return root
    raise CheckpointConfigError(
        f"{root} holds no bundles: it has no folder `{BUNDLES}`",
        remedy="Give the folder where the claim is mounted, or the output of `preheat run`",
    )
