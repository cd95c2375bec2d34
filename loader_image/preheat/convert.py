"""The `convert` stage: which tensors are taken, under which names and in which precision.

It runs in the loader while the bytes pass, so what is left out does not travel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Literal

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.formats.optimizer_names import follow
from preheat.formats.stackwise import labelled
from preheat.index import FLOAT8, Index, Tensor, distinct
from preheat.limits import Limit, check_limits
from preheat.mapping import NameMapping, rules_of
from preheat.names import compiled, found
from preheat.packed import PackedTensors
from preheat.stage import PipelineStage

#: The formats' names of the dtypes to which weights can be cast, and of those that are cast.
DTYPES: Mapping[str, str] = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
#: What takes the dtype that the checkpoint itself names.
LABELLED = "labelled"
#: What keeps the dtype that it is stored in.
UNCHANGED = "unchanged"
FLOATING = frozenset(("F64", "F32", "F16", "BF16", *FLOAT8))


@dataclass(frozen=True)
class DtypeRule:
    """One precision for some of the tensors."""

    pattern: Annotated[str, Limit(min_length=1, max_length=256)]
    """Regular expression, found anywhere in the checkpoint's names, as those of `exclude`."""

    dtype: Literal["float32", "float16", "bfloat16", "unchanged"]
    """Precision of the floating weights among them; `unchanged`: theirs."""

    def __post_init__(self) -> None:
        """Refuse what is no regular expression, or another precision."""
        check_limits(self)
        compiled("Convert.dtypes", self.pattern)
        _check("Convert.dtypes", self.dtype, UNCHANGED)


@dataclass(frozen=True)
class Convert(NameMapping, PipelineStage):
    """Take some of the tensors, under other names, in another precision."""

    example: ClassVar[str] = r"""
convert:
  exclude: ['^head\.']
  stripPrefix: [module.]
  rename: [{pattern: '^layers\.', replacement: blocks.}]
  dtype: bfloat16
  dtypes: [{pattern: 'norm', dtype: float32}]
"""

    dtype: Literal["float32", "float16", "bfloat16", "labelled"] | None = None
    """Precision of all floating weights, fp8 included, rounded to the nearest; other tensors stay; `labelled`: what a
    file of Stack-Wise's says of each stack. Default: theirs."""

    dtypes: Annotated[tuple[DtypeRule, ...], Limit(max_length=64)] = ()
    """Precisions of some of the floating weights, whatever `dtype` says; of two that name the same the later one
    holds."""

    def __post_init__(self) -> None:
        """Mappings from YAML become rules; refuse another precision."""
        object.__setattr__(self, "dtypes", rules_of(DtypeRule, self.dtypes, "Convert.dtypes"))
        super().__post_init__()
        if self.dtype is not None:
            _check("Convert.dtype", self.dtype, LABELLED)

    def apply(self, index: Index) -> Index:
        """The index of what is taken, as it will be called and stored; tied names stay tied, optimizers follow.

        Raises CheckpointIncompatibleError for tied names that are to have different dtypes.
        """
        mapping = self.mapping(index.tensors)
        wanted = self._dtypes(index, mapping.values())
        tensors = PackedTensors((new, _cast(index.tensors[old], wanted.get(old))) for new, old in mapping.items())
        if self.dtypes or self.dtype == LABELLED:
            _check_ties(tensors)
        return replace(index, tensors=tensors, state=follow(index.state, lambda: self.follow(index.tensors)))

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Show the checkpoint's data converted to all later stages; values are cast when they are read."""
        from preheat.bundle.data import indexed

        data = indexed(context, "convert")
        converted = self.apply(data.index)
        context.checkpoint_data = data.shown_as(converted)
        context.update_metadata(excluded_tensors=len(data.index.tensors) - len(converted.tensors))
        return context

    def _dtypes(self, index: Index, names: Iterable[str]) -> dict[str, str | None]:
        """The dtype that each floating tensor is to have, by its name in the checkpoint; None: its own."""
        if not (self.dtype or self.dtypes):
            return {}
        floating = [name for name in names if index.tensors[name].dtype in FLOATING]
        if self.dtype == LABELLED:
            labels = labelled(index)
            wanted = {
                name: next((labels[begin] for begin in labels if name.startswith(begin)), None) for name in floating
            }
        else:
            wanted = dict.fromkeys(floating, DTYPES[self.dtype] if self.dtype else None)
        last = {rule.pattern: DTYPES.get(rule.dtype) for rule in self.dtypes}
        ruling = found("Convert.dtypes", [rule.pattern for rule in reversed(self.dtypes)], floating, "floating tensors")
        return wanted | {name: last[pattern] for name, pattern in ruling.items()}


def _of_stack(name: str, labels: Mapping[str, str | None]) -> str | None:
    return next((dtype for begin, dtype in labels.items() if name.startswith(begin)), None)


def _cast(tensor: Tensor, dtype: str | None) -> Tensor:
    return replace(tensor, cast=dtype) if dtype not in (None, tensor.dtype) else tensor


def _check_ties(tensors: Mapping[str, Tensor]) -> None:
    for alias, name in distinct(tensors)[1].items():
        if tensors[alias].final_dtype != tensors[name].final_dtype:
            raise CheckpointIncompatibleError(
                f"{alias} is tied to {name}, one memory, and is to be {tensors[alias].final_dtype} "
                f"where that is {tensors[name].final_dtype}",
                remedy="Name both in one pattern of dtypes",
            )


def _check(where: str, dtype: str, more: str) -> None:
    if dtype not in (*DTYPES, more):
        raise CheckpointConfigError(f"{where}: {dtype!r:.40} is none of {', '.join((*DTYPES, more))}")
