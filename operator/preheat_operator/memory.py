"""What a status remembers: its conditions, and pods that are gone. A pod that exists speaks for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from preheat_operator.foreign import Object


def condition(status: Object, kind: str) -> Object:
    """The condition of this type in a status; empty when there is none."""
    return next((c for c in status.get("conditions") or () if c.get("type") == kind), {})


def status_of(pipeline: Object) -> Object:
    """The present status of a pipeline; empty when it has none."""
    status = pipeline.get("status")
    return status if isinstance(status, Mapping) else {}


def newest(
    seen: Sequence[Object], remembered: Iterable[Object], created: Mapping[str, str], limit: int
) -> list[Object]:
    """The newest of what is seen of pods and what is remembered of those that are gone, newest first.

    Each has `pod`, `time` and `reason`; `created` is when the pods that exist were made, by their names.
    """
    known = [each for each in remembered if each.get("pod") and each.get("time") and each.get("reason")]
    gone = [each for each in known if each["pod"] not in created or created[each["pod"]] > each["time"]]
    # A node whose clock is behind tells of failures from before its pod was created: they are the pod's own.
    told = {(each["pod"], each["time"]) for each in seen}
    kept = [each for each in gone if (each["pod"], each["time"]) not in told]
    return sorted([*kept, *seen], key=lambda each: (each["time"], each["pod"]), reverse=True)[:limit]
