"""How a lot gets from a slot of the ring to its targets: at once on the CPU, behind the program's back on CUDA.

A slot is only filled again after `wait(record())`: until then the device may still read from it.
"""

from __future__ import annotations

from typing import Any, Protocol

import torch

from preheat.strategies.filling.staging import Lot

#: Pieces of this size on average go to their places on a device one by one: each is worth a transfer of its own.
_LARGE = 1 << 20


class Lane(Protocol):
    """A way to one device, in the order of the calls."""

    slot: int  # bytes that are best sent at a time

    def enter(self) -> None:
        """Called by each thread before it calls `memory` or `wait`."""
        ...

    def memory(self, size: int) -> torch.Tensor:
        """Bytes on the host for a slot."""
        ...

    def copy(self, lot: Lot, staged: torch.Tensor) -> None:
        """Begin to copy a lot out of a slot."""
        ...

    def record(self) -> Any:
        """A mark behind all copies so far."""
        ...

    def wait(self, mark: Any) -> None:
        """Return when the copies before the mark are done."""
        ...


class HostLane:
    """Copies are done when the call returns: the CPU, and devices that share its memory."""

    slot = 2 << 20  # a processor's caches hold some of them

    def enter(self) -> None:
        """Nothing to prepare."""

    def memory(self, size: int) -> torch.Tensor:
        """Ordinary memory."""
        return torch.empty(size, dtype=torch.uint8, device="cpu")

    def copy(self, lot: Lot, staged: torch.Tensor) -> None:
        """Copy, and cast."""
        lot.deliver(staged)

    def record(self) -> None:
        """Nothing to remember."""

    def wait(self, mark: None) -> None:
        """Nothing to wait for."""


class CudaLane:
    """Pinned slots, and copies on the program's own stream: they come after what it does with the targets already.

    Small tensors travel as one transfer into one slot's size of device memory, and are scattered and cast there.
    """

    slot = 16 << 20  # 0.3 ms on a link of 50 GB/s, in which the next one has to be prepared

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.current_stream(device)
        self._staging: torch.Tensor | None = None  # one is enough: a stream does one thing after the other

    def enter(self) -> None:
        """A new thread begins on the first device, where other processes may be at work."""
        torch.cuda.set_device(self._device)

    def memory(self, size: int) -> torch.Tensor:
        """Memory that the device reads by itself."""
        return torch.empty(size, dtype=torch.uint8, device="cpu", pin_memory=True)

    def copy(self, lot: Lot, staged: torch.Tensor) -> None:
        """Queue the transfers."""
        if lot.size >= _LARGE * len(lot.pieces) and all(piece.plain for _, piece in lot.pieces):
            for at, piece in lot.pieces:
                values = staged[at : at + piece.size].view(piece.dtype).view(piece.shape)
                piece.target.copy_(values, non_blocking=True)
            return
        if self._staging is None:
            self._staging = torch.empty(len(staged), dtype=torch.uint8, device=self._device)
        self._staging[: lot.size].copy_(staged[: lot.size], non_blocking=True)
        lot.deliver(self._staging)

    def record(self) -> torch.cuda.Event:
        """An event on the stream."""
        # A thread that waits leaves its core to those that read.
        event: torch.cuda.Event = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Until the device has passed the event."""
        mark.synchronize()


def lane_to(device: torch.device) -> Lane:
    """The way to a device."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
