"""What the names in torch's pickles mean: storages, dtypes, and the functions that make tensors of them.

Tensors that are dense and strided become index entries. Others become nodes that say what they are, and are refused
where they are among the weights. Messages never print a value of the file: printing a nested one can take for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import prod
from typing import Any

from preheat.errors import CheckpointValidationError
from preheat.formats.inert.machine import Constructors
from preheat.formats.inert.values import Global, Node
from preheat.index import ITEMSIZE, Record, Tensor, row_major

MAX_RANK = 64

#: torch's names of dtypes, as safetensors spells them.
DTYPES = {
    "bool": "BOOL", "uint8": "U8", "int8": "I8", "float8_e4m3fn": "F8_E4M3", "float8_e5m2": "F8_E5M2",
    "float8_e8m0fnu": "F8_E8M0", "float8_e4m3fnuz": "F8_E4M3FNUZ", "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "uint16": "U16", "int16": "I16", "float16": "F16", "bfloat16": "BF16",
    "uint32": "U32", "int32": "I32", "float32": "F32",
    "uint64": "U64", "int64": "I64", "float64": "F64", "complex64": "C64",
}  # fmt: skip

_STORAGES = {
    "BoolStorage": "BOOL", "ByteStorage": "U8", "CharStorage": "I8", "ShortStorage": "I16", "HalfStorage": "F16",
    "BFloat16Storage": "BF16", "IntStorage": "I32", "FloatStorage": "F32", "LongStorage": "I64", "DoubleStorage": "F64",
    "ComplexFloatStorage": "C64",
}  # fmt: skip

#: Bytes of an element where only the length of a storage is of interest: Preheat cannot write these.
_OTHER_STORAGES = {
    "ComplexDoubleStorage": 16, "QInt8Storage": 1, "QUInt8Storage": 1, "QInt32Storage": 4, "QUInt4x2Storage": 1,
    "QUInt2x4Storage": 1,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Storage:
    """A run of bytes; `dtype` is None where each tensor says its own, or torch's name for one that cannot be read."""

    record: Record
    dtype: str | None


def storage(kind: Any, elements: Any, record: Record) -> Storage:
    """The storage that a persistent id describes; raises when it declares another size than its record has."""
    size = storage_size(kind, elements, record.name)
    dtype = None if kind.name == "UntypedStorage" else _STORAGES.get(kind.name, str(kind))
    if size not in (None, record.size):
        raise CheckpointValidationError(
            f"storage {record.name!r:.80} declares {elements} elements of {dtype or 'one byte'} "
            f"and has {record.size} bytes"
        )
    return Storage(record, dtype)


def storage_size(kind: Any, elements: Any, name: str) -> int | None:
    """Bytes of so many elements in a storage of this type; None for a type whose elements have an unknown size."""
    if not isinstance(kind, Global) or kind.module not in ("torch", "torch.cuda", "torch.storage"):
        raise CheckpointValidationError(f"storage {name!r:.80} is of no type of torch's")
    if not _count(elements):
        raise CheckpointValidationError(f"storage {name!r:.80} declares no number of elements")
    if kind.name == "UntypedStorage":
        return int(elements)
    itemsize = ITEMSIZE.get(_STORAGES.get(kind.name, ""), _OTHER_STORAGES.get(kind.name, 0))
    return elements * itemsize if itemsize else None


def _rebuild_tensor(source: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> Tensor | Node:
    if not isinstance(source, Storage) or source.dtype is None:
        raise TypeError("a tensor without a typed storage")
    return _dense(source, source.dtype, offset, shape, strides)


def _rebuild_tensor_v2(
    source: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, metadata: Any = None
) -> Tensor | Node:
    return _with_bits(_rebuild_tensor(source, offset, shape, strides), metadata)


def _rebuild_tensor_v3(
    source: Any, offset: Any, shape: Any, strides: Any, grad: Any, hooks: Any, dtype: Any, metadata: Any = None
) -> Tensor | Node:
    if not isinstance(source, Storage) or not isinstance(dtype, Global) or dtype.module != "torch":
        raise TypeError("a tensor without a storage or a dtype")
    return _with_bits(_dense(source, DTYPES.get(dtype.name, str(dtype)), offset, shape, strides), metadata)


def _with_bits(tensor: Tensor | Node, metadata: Any) -> Tensor | Node:
    """Conjugate and negative tensors are views whose bytes are not their values."""
    if not metadata:
        return tensor
    if not isinstance(metadata, dict):
        raise TypeError("a tensor's metadata is not a dictionary")
    bits = " and ".join(str(name) for name, value in metadata.items() if value)
    return _refused(f"a view with {bits} set, whose bytes are not its values") if bits else tensor


def _dense(source: Storage, dtype: str, offset: Any, shape: Any, strides: Any) -> Tensor | Node:
    if not _count(offset) or not is_counts(shape) or not is_counts(strides) or len(shape) != len(strides):
        raise ValueError("offset, shape and strides do not describe a tensor")
    if dtype not in ITEMSIZE:
        return _refused(f"of dtype {dtype.removesuffix('Storage')}, which Preheat cannot write")
    if prod(shape) >= 1 << 63:
        raise ValueError(f"shape {shape} has too many elements")
    if not prod(shape):
        return Tensor(dtype, shape, source.record)  # an empty view may begin beyond the end
    dense = strides == row_major(shape, strides)
    shape = _shared(shape)
    return Tensor(dtype, shape, source.record, offset * ITEMSIZE[dtype], None if dense else strides)


@lru_cache(1024)
def _shared(shape: tuple[int, ...]) -> tuple[int, ...]:
    """One tuple for all that are equal."""
    return shape


def _rebuild_parameter(data: Any, *_: Any) -> Any:
    if not isinstance(data, (Tensor, Node)):
        raise TypeError("a parameter of something else than a tensor")
    return data


def _rebuild_from_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    """Tensors with attributes of their own; a subclass gives its bytes another meaning."""
    rebuild = CONSTRUCTORS.get(function) if isinstance(function, Global) else None
    if not isinstance(kind, Global) or rebuild is None or not isinstance(args, tuple):
        raise TypeError("a tensor subclass without its class or its function")
    if str(kind) not in _PLAIN_CLASSES:
        return _refused(f"of the tensor subclass {kind}")
    return rebuild(*args)


def _size(lengths: Any = ()) -> Any:
    if not isinstance(lengths, tuple):
        raise TypeError("a torch.Size of something else than a tuple")
    return lengths


def _uncallable(*_: Any) -> Any:
    raise TypeError("a type of storages is called")  # in a damaged file, in place of what makes a tensor


def _refused(refusal: str) -> Node:
    return Node(Global("torch", "Tensor"), refusal=refusal)


def _count(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 63


def is_counts(value: Any) -> bool:
    """Whether it is a tuple of lengths, as a shape is."""
    return isinstance(value, tuple) and len(value) <= MAX_RANK and all(map(_count, value))


_PLAIN_CLASSES = ("torch.Tensor", "torch.nn.parameter.Parameter", "torch.nn.parameter.Buffer")
_OTHER_TENSORS = {
    "_rebuild_sparse_tensor": "sparse",
    "_rebuild_qtensor": "quantized",
    "_rebuild_nested_tensor": "nested",
    "_rebuild_meta_tensor_no_storage": "a meta tensor without values",
    "_rebuild_wrapper_subclass": "of a tensor subclass, such as DTensor",
    "_rebuild_device_tensor_from_numpy": "of a device that saves its tensors as numpy arrays",
    "_rebuild_device_tensor_from_cpu_tensor": "of a device that saves its tensors by way of the CPU",
}

CONSTRUCTORS: Constructors = {
    **{Global("torch", name): _uncallable for name in (*_STORAGES, *_OTHER_STORAGES)},
    Global("torch", "Size"): _size,
    Global("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    Global("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor_v2,
    Global("torch._utils", "_rebuild_tensor_v3"): _rebuild_tensor_v3,
    Global("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    Global("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    Global("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
    **{
        Global("torch._utils", name): lambda *_, refusal=refusal: _refused(refusal)
        for name, refusal in _OTHER_TENSORS.items()
    },
}

#: Globals that are part of describing a tensor and therefore not worth listing as opaque.
FAMILIAR = frozenset(
    [Global("torch", name) for name in (*DTYPES, *_STORAGES, *_OTHER_STORAGES)]
    + [Global("torch.storage", "UntypedStorage"), Global("torch.nn.parameter", "Parameter"), Global("torch", "Tensor")]
)
