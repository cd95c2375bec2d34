"""The `convert` stage: which tensors are taken, under which names and in which precision.

It runs in the loader while the bytes pass, so what is left out does not travel. On the checkpoint's own names `select`
and `exclude` work first; then `stripPrefix`, `rename` and `addPrefix`, in this order whatever the order in the YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from preheat.construction import construct
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.index import Index, Tensor
from preheat.names import Rename, compiled, renamed, taken
from preheat.paths import listed
from preheat.stage import Limit, PipelineStage

Patterns = Annotated[tuple[str, ...], Limit(max_length=64, items=Limit(min_length=1, max_length=256))]

#: The formats' names of the dtypes to which weights can be cast, and of those that are cast.
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
FLOATING = frozenset(("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2"))


@dataclass(frozen=True)
class Convert(PipelineStage):
    """Take some of the tensors, under other names, in another precision."""

    select: Patterns = ()
    """Regular expressions: only tensors in whose name one of them is found are taken. Default: all."""

    exclude: Patterns = ()
    r"""Regular expressions: tensors in whose name one of them is found are left where they are, such as `^head\.`."""

    strip_prefix: Patterns = ()
    """Prefixes that are taken off the names, in order, each once, such as `module.` or `_orig_mod.`."""

    rename: Annotated[tuple[Rename, ...], Limit(max_length=64)] = ()
    """Replacements in the names, in order, each in what the one before it left."""

    add_prefix: Annotated[str, Limit(min_length=1, max_length=256)] | None = None
    """Put before every name, last of all."""

    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    """Precision of all floating weights, fp8 included, rounded to the nearest; other tensors stay. Default: theirs."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples, and patterns have to be regular expressions."""
        for name in ("select", "exclude", "strip_prefix"):
            object.__setattr__(self, name, listed(f"Convert.{name}", getattr(self, name)))
        object.__setattr__(self, "rename", _rules(self.rename))
        super().__post_init__()
        for name in ("select", "exclude"):
            for pattern in getattr(self, name):
                compiled(f"Convert.{name}", pattern)
        if self.dtype is not None and self.dtype not in DTYPES:
            raise CheckpointConfigError(f"Convert.dtype: {self.dtype!r} is none of {', '.join(DTYPES)}")

    def mapping(self, names: Iterable[str]) -> dict[str, str]:
        """New name -> name in the checkpoint, without those left out.

        Raises NothingMatchedError naming a pattern that matches nothing, CheckpointIncompatibleError for two names
        that become one.
        """
        kept = taken(names, self.select, self.exclude)
        return renamed(kept, self.strip_prefix, self.rename, self.add_prefix or "")

    def apply(self, index: Index) -> Index:
        """The index of what is taken, as it will be called and stored; tied names stay tied."""
        tensors = {new: self._cast(index.tensors[old]) for new, old in self.mapping(index.tensors).items()}
        return replace(index, tensors=tensors)

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


def _rules(rules: Any) -> tuple[Rename, ...]:
    if isinstance(rules, (str, Mapping)) or not all(isinstance(rule, (Rename, Mapping)) for rule in rules):
        raise CheckpointConfigError("Convert.rename: give a list of {pattern: ..., replacement: ...}")
    return tuple(rule if isinstance(rule, Rename) else construct(Rename, rule, "rename") for rule in rules)
