"""Ways to get the weights of one file into the parameters of one model: Preheat's, and what others do.

Each is called with a Job and returns when the parameters hold the values. Half of them run in the project's
environment, half in the peers'.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from load_names import (
    COPY,
    FAST,
    FAST_BUFFERED,
    INSTANT,
    LOAD_FILE,
    LOAD_FILE_PINNED,
    PINNED_COPY,
    PREFETCH,
    PREFETCH_16,
    PREHEAT,
    RUNAI,
    RUNAI_BUFFERED,
    TENSORIZER,
    TORCH,
)  # fmt: skip

CHUNK = 256 << 20  # bytes


@dataclass
class Job:
    """A bundle, the same weights as other formats write them, and the model that receives them."""

    bundle: Path
    pickled: Path  # as torch.save writes them; need not exist
    model: torch.nn.Module

    @property
    def weights(self) -> Path:
        return self.bundle / "model.safetensors"

    @cached_property
    def targets(self) -> dict[str, torch.Tensor]:
        return {name: parameter.detach() for name, parameter in self.model.named_parameters()}

    @cached_property
    def device(self) -> torch.device:
        return next(iter(self.targets.values())).device

    @cached_property
    def copies(self) -> dict[str, torch.Tensor]:
        """As much again, resident: what a plain copy reads."""
        return {name: torch.ones(target.shape, dtype=target.dtype) for name, target in self.targets.items()}

    @cached_property
    def chunk(self) -> torch.Tensor:
        """Pinned memory, where there is a device to pin it for."""
        return torch.ones(CHUNK, dtype=torch.uint8, pin_memory=self.device.type == "cuda")

    def copy(self, values: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Put each value where it belongs."""
        for name, value in values:
            self.targets[name].copy_(value)


def memcpy(job: Job) -> None:
    """The C library's copy, tensor by tensor, from memory that is resident."""
    copy = ctypes.CDLL(None).memcpy
    copy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
    for name, target in job.targets.items():
        copy(target.data_ptr(), job.copies[name].data_ptr(), target.nbytes)


def pinned_copy(job: Job) -> None:
    """From pinned memory to the device, the same bytes again and again: what the link gives."""
    for target in job.targets.values():
        for part in target.view(-1).view(torch.uint8).split(CHUNK):
            part.copy_(job.chunk[: len(part)], non_blocking=True)


def preheat(job: Job) -> dict[str, float]:
    """What `preheat.apply` does, without its report; `moving` are the seconds from the first byte to the last."""
    from preheat.bundle.data import open_bundle
    from preheat.context import CheckpointContext
    from preheat.pipeline import CheckpointPipeline
    from preheat.strategies import WeightsOnlyLoader

    data = open_bundle(job.bundle)
    done = CheckpointPipeline([WeightsOnlyLoader()]).execute_sync(
        CheckpointContext(model=job.model, checkpoint_data=data)
    )
    data.close()
    return {"moving": done.get_metadata("load_seconds")}


def safetensors(job: Job) -> None:
    from safetensors.torch import load_file

    job.model.load_state_dict(load_file(job.weights, device=str(job.device)))


def safetensors_pinned(job: Job) -> None:
    from safetensors.torch import load_file

    for name, value in load_file(job.weights).items():
        job.targets[name].copy_(value.pin_memory(), non_blocking=True)


def safetensors_prefetch(job: Job, threads: int) -> None:
    from safetensors import safe_open

    with safe_open(job.weights, "pt") as file:
        job.copy(file.prefetch(device=job.device.index or 0, threads=threads))


def torch_load(job: Job) -> None:
    job.model.load_state_dict(torch.load(pickled(job), mmap=True, weights_only=True))


def runai(job: Job, strategy: str | None = None) -> None:
    from runai_model_streamer import SafetensorsStreamer

    _set("RUNAI_STREAMER_FS_STRATEGY", strategy)
    with SafetensorsStreamer() as streamer:
        streamer.stream_files([str(job.weights)], device=str(job.device))
        job.copy(streamer.get_tensors())


def fastsafetensors(job: Job, direct: str | None = None) -> None:
    from fastsafetensors import SafeTensorsFileLoader, SingleGroup

    _set("FASTSAFETENSORS_ODIRECT", direct)
    loader = SafeTensorsFileLoader(SingleGroup(), device=str(job.device), nogds=True)
    loader.add_filenames({0: [str(job.weights)]})
    tensors = loader.copy_files_to_device()
    job.copy((name, tensors.get_tensor(name)) for name in job.targets)
    tensors.close()
    loader.close()


def tensorizer(job: Job) -> None:
    from tensorizer import TensorDeserializer

    deserializer = TensorDeserializer(str(own_format(job)), device=str(job.device), num_readers=os.cpu_count())
    job.copy(deserializer.items())  # load_into_module would put others in the parameters' place
    deserializer.close()


def own_format(job: Job) -> Path:
    """The weights in tensorizer's format; written when they are not there."""
    path = job.bundle.parent / "model.tensors"
    if not path.exists():
        from safetensors.torch import load_file
        from tensorizer import TensorSerializer

        job.copy(load_file(job.weights).items())
        serializer = TensorSerializer(str(path))
        serializer.write_module(job.model)
        serializer.close()
    return path


def pickled(job: Job) -> Path:
    """The weights as torch.save writes them; written when they are not there."""
    if not job.pickled.exists():
        from safetensors.torch import load_file

        torch.save(load_file(job.weights), job.pickled)
    return job.pickled


def instanttensor(job: Job) -> None:
    import instanttensor as library

    with library.safe_open(str(job.weights), "pt", job.device) as file:
        job.copy(file.tensors())


def _set(name: str, value: str | None) -> None:
    if value is None:
        os.environ.pop(name, None)
    else:
        os.environ[name] = value


#: By the names that the tables show.
CONTENDERS: Mapping[str, Callable[[Job], Any]] = {
    COPY: memcpy,
    PINNED_COPY: pinned_copy,
    PREHEAT: preheat,
    LOAD_FILE: safetensors,
    LOAD_FILE_PINNED: safetensors_pinned,
    TORCH: torch_load,
    RUNAI: runai,
    RUNAI_BUFFERED: partial(runai, strategy="io_uring_buffered"),
    FAST: fastsafetensors,
    FAST_BUFFERED: partial(fastsafetensors, direct="0"),
    TENSORIZER: tensorizer,
    INSTANT: instanttensor,
    PREFETCH: partial(safetensors_prefetch, threads=8),
    PREFETCH_16: partial(safetensors_prefetch, threads=16),
}
