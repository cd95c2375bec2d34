"""How much memory a load took: of the process, and of the devices that it uses. Bytes; only looks, resets nothing."""

from __future__ import annotations

import resource
import sys
from contextlib import suppress
from pathlib import Path

Usage = dict[str, int]

_STATUS = Path("/proc/self/status")
_FIELDS = {"VmRSS": "resident", "VmHWM": "peak"}


def usage() -> Usage:
    """What is resident now and was at most so far; on a GPU that torch has begun to use, `device` and `devicePeak`."""
    return {**_resident(), **_device()}


def growth(before: Usage) -> Usage:
    """The usage now, and by how much the peaks have risen since `before`: `raised`, `deviceRaised`."""
    now = usage()
    pairs = (("peak", "raised"), ("devicePeak", "deviceRaised"))
    return {**now, **{name: now[peak] - before.get(peak, 0) for peak, name in pairs if peak in now}}


def _resident() -> Usage:
    with suppress(OSError, ValueError):
        fields = dict(line.split(":", 1) for line in _STATUS.read_text().splitlines())
        return {name: int(fields[field].split()[0]) * 1024 for field, name in _FIELDS.items() if field in fields}
    unit = 1 if sys.platform == "darwin" else 1024
    return {"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}


def _device() -> Usage:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    return {"device": torch.cuda.memory_allocated(), "devicePeak": torch.cuda.max_memory_allocated()}
