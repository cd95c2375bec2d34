"""How much room a bundle takes, and what would not give it. Pure; sizes are bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from preheat_operator.quantity import human_bytes, parse_quantity

MIB = 1024 * 1024
#: Manifest, journals and shim are far smaller: what a loader holds in its 64 MiB of memory bounds the first two.
MARGIN = 256 * MIB
#: What a bundle takes at least besides its tensors.
OVERHEAD = 4 * MIB
#: What the loader needs of memory besides what lies in a volume in memory.
LOADER_MEMORY = 64 * MIB

Object = Mapping[str, Any]


@dataclass(frozen=True)
class Room:
    """One bound of what a pipeline's volume can hold."""

    size: int
    what: str
    remedy: str

    def shortage(self, output_bytes: int) -> str | None:
        """What to say when a bundle with so many bytes of tensors does not fit."""
        if self.size >= output_bytes + OVERHEAD:
            return None
        return f"a bundle takes {human_bytes(output_bytes)} and {self.what}. {self.remedy}"


def size_limit(output_bytes: int, medium: str = "") -> str:
    """The bound of an emptyDir in which a bundle with so many bytes of tensors is made.

    On a disk the kubelet enforces it by eviction, and room is not set aside: twice the bytes, since a bundle that turns
    out to be damaged is there until another one takes its place. In memory it is the file system's size, what is in it
    counts as memory, and nothing outlives the machine: once.
    """
    needed = output_bytes * (1 if medium == "Memory" else 2) + MARGIN
    unit, suffix = (64 * MIB, "Mi") if needed < 16 * 1024 * MIB else (1024 * MIB, "Gi")
    rounded = -(-needed // unit) * unit
    return f"{rounded // MIB if suffix == 'Mi' else rounded // unit}{suffix}"


def on_disk(spec: Object) -> bool:
    """Whether a pipeline's volume is an emptyDir on the disk of whichever node a pod gets."""
    volume = spec.get("volume") or {}
    chosen = volume.get("emptyDir") or {}
    return not volume.get("persistentVolumeClaim") and chosen.get("medium", "") != "Memory"


def rooms(
    spec: Object, loader_memory: str | None, *, claim_bytes: int | None = None, disk_bytes: int | None = None
) -> Iterator[Room]:
    """What bounds the volume of a pipeline's `spec`, as far as it is known.

    The loader has so much memory, the pipeline's claim so many bytes, and the roomiest node such a disk.
    """
    volume = spec.get("volume") or {}
    chosen = volume.get("emptyDir") or {}
    if (limit := chosen.get("sizeLimit")) is not None:
        what = f"spec.volume.emptyDir.sizeLimit is {limit}"
        yield Room(int(parse_quantity(limit)), what, "Raise it, or leave it out to have it follow the checkpoint")
    if chosen.get("medium") == "Memory" and loader_memory is not None:
        what = f"spec.volume.emptyDir is in memory, of which the loader may use {loader_memory}"
        remedy = f"Raise spec.loader.resources.limits.memory to the bundle's size and {LOADER_MEMORY // MIB}Mi"
        yield Room(int(parse_quantity(loader_memory)) - LOADER_MEMORY, what, remedy)
    if (claim := volume.get("persistentVolumeClaim")) and claim_bytes is not None:
        what = f"claim {claim['claimName']} holds {human_bytes(claim_bytes)}"
        yield Room(claim_bytes, what, "Give it more, or name another one in spec.volume")
    if on_disk(spec) and disk_bytes is not None:
        what = f"no node has more than {human_bytes(disk_bytes)} of ephemeral storage"
        yield Room(disk_bytes, what, "Name a claim in spec.volume, or add nodes with larger disks")


def capacity(claim: Object) -> int | None:
    """What a PersistentVolumeClaim holds, or asks for while it is not bound; None when it does not say."""
    status, spec = claim.get("status") or {}, claim.get("spec") or {}
    amounts = status.get("capacity") or (spec.get("resources") or {}).get("requests") or {}
    return int(parse_quantity(amounts["storage"])) if "storage" in amounts else None


def disk(node: Object) -> int | None:
    """What a node has for the emptyDirs of its pods; None when it does not say, or takes none."""
    allocatable = (node.get("status") or {}).get("allocatable") or {}
    if (node.get("spec") or {}).get("unschedulable"):
        return None
    # Kubelets that do not look at their disk say 0.
    return int(parse_quantity(allocatable.get("ephemeral-storage", 0))) or None


def evicting_limit(pod_spec: Object, output_bytes: int) -> int | None:
    """The pod's own limit of ephemeral storage, in which its emptyDirs count, if a bundle on a disk goes beyond it.

    As the kubelet has it: containers without a limit add nothing to the sum, and bind nobody if none has one.
    """
    both = (pod_spec.get("containers") or (), pod_spec.get("initContainers") or ())
    apps, init = ([amount for each in group if (amount := _ephemeral(each))] for group in both)
    limit = max(sum(apps), max(init, default=0))
    return limit if 0 < limit < output_bytes + OVERHEAD else None


def shortages(bounds: Iterable[Room], output_bytes: int) -> list[str]:
    """What to say of the bounds that a bundle does not fit into."""
    return [said for each in bounds if (said := each.shortage(output_bytes))]


def _ephemeral(container: Object) -> int:
    limits = (container.get("resources") or {}).get("limits") or {}
    return int(parse_quantity(limits.get("ephemeral-storage", 0)))
