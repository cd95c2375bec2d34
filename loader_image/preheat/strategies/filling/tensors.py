"""Bytes of a checkpoint as torch tensors: the dtypes, and reading straight into a tensor's memory."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Sequence

import torch

from preheat.blob import Blob
from preheat.checks import Checks, Findings
from preheat.index import Tensor
from preheat.strategies.filling.checking import check_records

#: torch's dtypes by the names of the safetensors format.
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu, "F8_E4M3FNUZ": torch.float8_e4m3fnuz,
    "F8_E5M2FNUZ": torch.float8_e5m2fnuz, "U16": torch.uint16, "I16": torch.int16, "F16": torch.float16,
    "BF16": torch.bfloat16, "U32": torch.uint32, "I32": torch.int32, "F32": torch.float32,
    "U64": torch.uint64, "I64": torch.int64, "F64": torch.float64, "C64": torch.complex64,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

#: Bytes that a blob which cannot read into scattered memory hands over at a time.
_STREAMED = 1 << 20


def dtype_name(dtype: torch.dtype) -> str:
    """The format's name of a dtype, or torch's own for one that the format does not have."""
    return _NAMES.get(dtype, str(dtype))


def read_tensor(blob: Blob, tensor: Tensor, checks: Checks) -> torch.Tensor:
    """One tensor on the CPU, contiguous, in memory of its own, cast where the index says so."""
    if checks.crc32:
        check_records(blob, [stored.record for stored in tensor.stored()], Findings(checks.warn_only))
    return _as_stored(blob, tensor).to(DTYPES[tensor.final_dtype])


def _as_stored(blob: Blob, tensor: Tensor) -> torch.Tensor:
    dtype = DTYPES[tensor.dtype]
    if tensor.parts:
        values = torch.empty(tensor.shape, dtype=dtype, device="cpu")
        space = values.view(tensor.space)
        for part in tensor.parts:
            box = tuple(slice(begin, end) for begin, end in zip(part.corner, part.end, strict=True))
            space[box] = _as_stored(blob, part.tensor)
        return values
    if tensor.contiguous:
        values = torch.empty(tensor.shape, dtype=dtype, device="cpu")
        read_into(blob, tensor.start, [memory_of(values)])
        return values
    raw = torch.empty(tensor.extent() // dtype.itemsize, dtype=dtype, device="cpu")
    read_into(blob, tensor.start, [memory_of(raw)])
    return raw.as_strided(tensor.shape, tensor.strides or ()).contiguous()


def memory_of(tensor: torch.Tensor) -> memoryview:
    """The writable bytes of a contiguous CPU tensor, for as long as the caller holds it; numpy is not needed."""
    if tensor.numel() == 0:
        return memoryview(bytearray())
    array = (ctypes.c_char * (tensor.numel() * tensor.element_size())).from_address(tensor.data_ptr())
    return memoryview(array).cast("B")


def read_into(blob: Blob, start: int, views: Sequence[memoryview]) -> None:
    """Fill `views` one after the other with the bytes from `start`."""
    scatter = getattr(blob, "read_into", None)
    if scatter:
        scatter(start, views)
        return
    stop = start + sum(map(len, views))
    pieces = blob.stream(start, stop, memoryview(bytearray(min(_STREAMED, stop - start))))
    _distribute(pieces, iter(views))


def _distribute(pieces: Iterable[memoryview], views: Iterable[memoryview]) -> None:
    targets = iter(views)
    target = memoryview(b"")
    for piece in pieces:
        while len(piece):
            while not len(target):
                target = next(targets)
            count = min(len(piece), len(target))
            target[:count] = piece[:count]
            piece, target = piece[count:], target[count:]
