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
from preheat.formats.stackwise import labelled
from preheat.index import Index, Tensor
from preheat.mapping import NameMapping
from preheat.packed import PackedTensors
from preheat.stage import PipelineStage

#: The formats' names of the dtypes to which weights can be cast, and of those that are cast.
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
#: What takes the dtype that the checkpoint itself names.
LABELLED = "labelled"
FLOATING = frozenset(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))


@dataclass(frozen=True)
class Convert(NameMapping, PipelineStage):
    """Take some of the tensors, under other names, in another precision."""

    example: ClassVar[str] = r"""
convert:
  exclude: ['^head\.']
  stripPrefix: [module.]
  rename: [{pattern: '^layers\.', replacement: blocks.}]
  dtype: bfloat16
"""

    dtype: Literal["float32", "float16", "bfloat16", "labelled"] | None = None
    """Precision of all floating weights, fp8 included, rounded to the nearest; other tensors stay; `labelled`: what a
    file of Stack-Wise's says of each stack. Default: theirs."""

    def __post_init__(self) -> None:
        """Refuse another precision."""
        super().__post_init__()
        if self.dtype not in (None, LABELLED, *DTYPES):
            raise CheckpointConfigError(f"Convert.dtype: {self.dtype!r} is none of {', '.join((*DTYPES, LABELLED))}")

    def apply(self, index: Index) -> Index:
        """The index of what is taken, as it will be called and stored; tied names stay tied, optimizers follow."""
        mapping = self.mapping(index.tensors)
        dtypes = self._dtypes(index)
        tensors = PackedTensors((new, _cast(old, index.tensors[old], dtypes)) for new, old in mapping.items())
        return replace(index, tensors=tensors, state=follow(index.state, lambda: self.follow(index.tensors)))

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Show the checkpoint's data converted to all later stages; values are cast when they are read."""
        from preheat.bundle.data import indexed

        data = indexed(context, "convert")
        converted = self.apply(data.index)
        context.checkpoint_data = data.shown_as(converted)
        context.update_metadata(excluded_tensors=len(data.index.tensors) - len(converted.tensors))
        return context

    def _dtypes(self, index: Index) -> Mapping[str, str | None]:
        """The dtypes that are wanted, by what the names of the tensors begin with."""
        if self.dtype == LABELLED:
            return labelled(index)
        return {"": DTYPES[self.dtype]} if self.dtype else {}


def _cast(name: str, tensor: Tensor, dtypes: Mapping[str, str | None]) -> Tensor:
    dtype = next((dtype for prefix, dtype in dtypes.items() if name.startswith(prefix)), None)
    return replace(tensor, cast=dtype) if dtype and tensor.dtype in FLOATING and dtype != tensor.dtype else tensor
