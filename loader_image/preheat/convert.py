"""The `convert` stage: which tensors are taken, under which names and in which precision.

It runs in the loader while the bytes pass, so what is left out does not travel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.formats.optimizer_names import follow
from preheat.index import Index, Tensor
from preheat.mapping import NameMapping
from preheat.packed import PackedTensors

#: The formats' names of the dtypes to which weights can be cast, and of those that are cast.
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FLOATING = frozenset(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))


@dataclass(frozen=True)
class Convert(NameMapping):
    """Take some of the tensors, under other names, in another precision."""

    example: ClassVar[str] = r"""
convert:
  exclude: ['^head\.']
  stripPrefix: [module.]
  rename: [{pattern: '^layers\.', replacement: blocks.}]
  dtype: bfloat16
"""

    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of all floating weights, fp8 included, rounded to the nearest; other tensors stay. Default: theirs."""

    def __post_init__(self) -> None:
        """Refuse another precision."""
        super().__post_init__()
        if self.dtype is not None and self.dtype not in DTYPES:
            raise CheckpointConfigError(f"Convert.dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")

    def apply(self, index: Index) -> Index:
        """The index of what is taken, as it will be called and stored; tied names stay tied, optimizers follow."""
        mapping = self.mapping(index.tensors)
        tensors = PackedTensors((new, self._cast(index.tensors[old])) for new, old in mapping.items())
        return replace(index, tensors=tensors, state=follow(index.state, lambda: self.follow(index.tensors)))

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Show the checkpoint's data converted to all later stages; values are cast when they are read."""
        from preheat.bundle.data import indexed

        data = indexed(context, "convert")
        converted = self.apply(data.index)
        context.checkpoint_data = data.shown_as(converted)
        context.update_metadata(excluded_tensors=len(data.index.tensors) - len(converted.tensors))
        return context

    def _cast(self, tensor: Tensor) -> Tensor:
        dtype = DTYPES[self.dtype] if self.dtype else tensor.dtype
        return replace(tensor, cast=dtype) if tensor.dtype in FLOATING and dtype != tensor.dtype else tensor
