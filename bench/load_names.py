"""The contenders of loading, as the tables call them; who runs where."""

from __future__ import annotations

COPY, PINNED_COPY, PREHEAT = "memcpy", "pinned copy", "Preheat"
LOAD_FILE, LOAD_FILE_PINNED = "load_file + load_state_dict", "load_file + pin_memory"
TORCH = "torch.load(mmap) + load_state_dict"
RUNAI, RUNAI_BUFFERED = "runai-model-streamer", "runai-model-streamer, buffered"
FAST, FAST_BUFFERED = "fastsafetensors", "fastsafetensors, buffered"
TENSORIZER, INSTANT = "tensorizer", "instanttensor"
PREFETCH, PREFETCH_16 = "safetensors 0.9 prefetch", "safetensors 0.9 prefetch, 16 threads"

#: Those for which the project's environment is enough.
_OURS = (COPY, PINNED_COPY, PREHEAT, LOAD_FILE, LOAD_FILE_PINNED, TORCH)

_ANYWHERE = (PREHEAT, LOAD_FILE, TORCH, RUNAI, RUNAI_BUFFERED, FAST, FAST_BUFFERED, TENSORIZER, INSTANT, PREFETCH)

#: The last two refuse a CPU, and say so.
ON_CPU = (COPY, *_ANYWHERE)

ON_GPU = (PINNED_COPY, *_ANYWHERE, LOAD_FILE_PINNED, PREFETCH_16)


def of_the_project(name: str) -> bool:
    """Whether a contender runs in the project's environment."""
    return name in _OURS
