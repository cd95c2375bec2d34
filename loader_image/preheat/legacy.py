"""The utilities of Anemoi's checkpoint guide under their own names, on this engine.

What the guide promised is kept where its code broke it: metadata is read without the payload, a download appears whole
or not at all, a raw state dict is a valid checkpoint, and no file is ever unpickled. Mappings may hold torch tensors,
which are asked for their values and never imported.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from preheat.blob import Patience
from preheat.bundle.data import CheckpointData, format_name
from preheat.bundle.storage import storage_errors
from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointValidationError, about
from preheat.formats import read_index
from preheat.sources.http import HTTPSource
from preheat.verbs.comparison import compare_tensors
from preheat.verbs.digest import calculate_checksum
from preheat.verbs.inspection import inspect
from preheat.verbs.location import Where, located, opened, source_of

__all__ = [
    "calculate_checksum", "compare_state_dicts", "detect_format", "download_with_retry", "estimate_checkpoint_memory",
    "format_size", "get_checkpoint_metadata", "load_checkpoint", "validate_checkpoint",
]  # fmt: skip

_WEIGHT_KEYS = ("state_dict", "model_state_dict", "model")
_MAX_LEVELS = 20
_MAX_PROBLEMS = 20


async def download_with_retry(
    url: str, dest: str | Path, max_retries: int = 3, timeout: float = 300, chunk_size: int = 1 << 20
) -> Path:
    """Fetch an HTTP(S) URL into the file `dest`, which appears when it is complete, and return its path.

    `max_retries` counts attempts after the first, `timeout` seconds without progress. Raises CheckpointSourceError or
    one of its kinds; answers such as 403 and 404 are not tried again.
    """
    source = source_of(url)
    if not isinstance(source, HTTPSource):
        raise CheckpointConfigError(f"{url} is not an HTTP URL")
    return await asyncio.to_thread(_download, source, Path(dest), Patience(max_retries, timeout), chunk_size)


def _download(source: HTTPSource, target: Path, patience: Patience, chunk_size: int) -> Path:
    with storage_errors(target.parent), opened(source, patience) as blob:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, prefix=f".{target.name[:64]}-", delete=False) as file:
            try:
                for view in blob.stream(0, blob.size, memoryview(bytearray(max(1, chunk_size)))):
                    file.write(view)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.replace(file.name, target)
            except BaseException:
                os.unlink(file.name)
                raise
    return target


def _umask() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():  # asking the kernel otherwise means setting it
        if line.startswith("Umask:"):
            return int(line.split()[1], 8)
    return 0o022


def detect_format(checkpoint: Mapping[str, Any] | Where) -> str:
    """`lightning`, `pytorch`, `state_dict` or `safetensors`, of a loaded checkpoint or of one at a location.

    A file is told by its bytes, whatever it is called.
    """
    if not isinstance(checkpoint, Mapping):
        with opened(checkpoint) as blob:
            return format_name(read_index(blob))
    parts = {"callbacks", "optimizer_states", "lr_schedulers", "loops"}
    if "pytorch-lightning_version" in checkpoint or len(parts & checkpoint.keys()) >= 2:
        return "lightning"
    raw = bool(checkpoint) and all(map(_is_tensor, checkpoint.values()))
    return "state_dict" if raw else "pytorch"


def load_checkpoint(checkpoint_path: Where, checkpoint_format: str | None = None) -> CheckpointData:
    """The checkpoint at a location as a mapping; a tensor is read whenever it is asked for, until `close()`.

    Raises CheckpointLoadError for what cannot be read, and when it is not in `checkpoint_format`, if that is given.
    """
    blob = located(checkpoint_path).open(Patience())
    try:
        with about(blob.uri):
            index = read_index(blob)
            if checkpoint_format not in (None, found := format_name(index)):
                raise CheckpointLoadError(f"the format is {found}, not {checkpoint_format}")
    except BaseException:
        blob.close()
        raise
    return CheckpointData(blob, index)


def get_checkpoint_metadata(path: Where) -> dict[str, Any]:
    """What a checkpoint says besides its weights, from a few kilobytes of it.

    Numbers, texts and small trees under their own keys; `num_parameters` counts elements, `num_tensors` tensors.
    """
    found = inspect(path)
    state = found.state if isinstance(found.state, dict) else {}
    return {
        **state,
        "file_path": found.uri,
        "file_size_mb": found.size_bytes / (1 << 20),
        "num_parameters": found.parameters,
        "num_tensors": len(found.tensors),
    }


def validate_checkpoint(data: Mapping[str, Any], check_tensors: bool = False) -> bool:
    """True for a mapping that holds weights, finite ones if asked; else CheckpointValidationError with all problems."""
    problems = list(_structure(data))
    if check_tensors and not problems:
        problems = [f"{path} holds NaN or infinity" for path, tensor in _tensors(data) if not _finite(tensor)]
    if problems:
        more = f"; and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise CheckpointValidationError("; ".join(problems[:_MAX_PROBLEMS]) + more)
    return True


def compare_state_dicts(
    source: Mapping[str, Any], target: Mapping[str, Any]
) -> tuple[set[str], set[str], dict[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    """Names only in `target`, names only in `source`, and (source, target) shapes where they differ."""
    found = compare_tensors(source, target)
    return set(found.unexpected), set(found.missing), dict(found.shapes)


def estimate_checkpoint_memory(checkpoint: Mapping[str, Any] | Where) -> int:
    """Bytes of all tensors, those of the training state too; one that has two names counts once.

    A checkpoint at a location is estimated from its index.
    """
    if not isinstance(checkpoint, Mapping):
        found = inspect(checkpoint)
        return found.weight_bytes + found.state_bytes
    distinct = {id(tensor): tensor for _, tensor in _tensors(checkpoint)}
    return sum(tensor.numel() * tensor.element_size() for tensor in distinct.values())


def format_size(count: float) -> str:
    """`1.50 KB`: binary units, two decimals."""
    for unit in ("B", "KB", "MB", "GB"):
        if abs(count) < 1024:
            return f"{count:.2f} {unit}"
        count /= 1024
    return f"{count:.2f} TB"


def _structure(data: Mapping[str, Any]) -> Iterator[str]:
    if not isinstance(data, Mapping):
        yield f"the checkpoint is a {type(data).__name__}, not a mapping"
    elif not data:
        yield "the checkpoint is empty"
    elif not any(key in data for key in _WEIGHT_KEYS) and detect_format(data) != "state_dict":
        shown = ", ".join(map(repr, list(data)[:10]))
        yield f"the checkpoint has none of {', '.join(_WEIGHT_KEYS)} and is no state dict; its keys: {shown}"
    else:
        for key in _WEIGHT_KEYS:
            if isinstance(data.get(key), Mapping) and not data[key]:
                yield f"{key} is empty"


def _tensors(tree: Any, path: str = "", level: int = 0) -> Iterator[tuple[str, Any]]:
    if _is_tensor(tree):
        yield path, tree
    elif level < _MAX_LEVELS and isinstance(tree, Mapping):
        for key, value in tree.items():
            yield from _tensors(value, f"{path}.{key}" if path else str(key), level + 1)
    elif level < _MAX_LEVELS and isinstance(tree, (list, tuple)):
        for position, value in enumerate(tree):
            yield from _tensors(value, f"{path}[{position}]", level + 1)


def _is_tensor(value: Any) -> bool:
    return hasattr(value, "element_size") and hasattr(value, "numel")


def _finite(tensor: Any) -> bool:
    return bool(tensor.isfinite().all()) if tensor.is_floating_point() or tensor.is_complex() else True
