"""What `kubectl preheat status` says of what pods save and upload."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any

from preheat.amounts import ago, size_text

Object = Mapping[str, Any]


def uploads(status: Object, now: datetime) -> Iterator[tuple[str, str | None]]:
    """How much was sent, what was sent last, whose upload fails and why, and what was not sent."""
    told = status.get("uploads")
    if not told:
        return
    yield "uploads", f"{told['summary']}, {size_text(told['bytes'])}"
    if last := told.get("last"):
        yield "sent last", f"{last['name']} by pod {last['pod']}, {_since(last['time'], now)} ago"
    for each in told.get("senders") or ():
        if each["state"] == "failing":
            yield "failing", f"pod {each['pod']}: {each['reason']}: {each.get('message', '')}"
            yield "do", each.get("remedy")
    for each in told.get("unsent") or ():
        yield "unsent", f"pod {each['pod']}, {_since(each['time'], now)} ago: {each['message']}"
        yield "do", each.get("remedy")


def _since(time: str, now: datetime) -> str:
    return ago((now - datetime.fromisoformat(time)).total_seconds())
