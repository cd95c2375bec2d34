"""Parts of the model in another floating-point type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, get_args

from preheat.construction import part
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit, check_limits
from preheat.paths import Paths, SomePaths, listed
from preheat.stage import ModelModifier

Precision = Literal["float32", "float16", "bfloat16"]


@dataclass(frozen=True)
class PrecisionRule:
    """One precision for some parts of the model."""

    layers: SomePaths
    """Dotted paths of submodules, parameters or buffers, such as `encoder`; `*` matches within one name."""

    dtype: Precision
    """Their type."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples."""
        object.__setattr__(self, "layers", listed("precision.rules: layers", self.layers))
        check_limits(self)
        _check("precision.rules: dtype", self.dtype)


@dataclass(frozen=True)
class PrecisionModifier(ModelModifier):
    """Cast parameters and floating buffers, each once. They stay cast: in the optimizer, in what is saved."""

    example: ClassVar[str] = "precision: {dtype: bfloat16, norms: float32, rules: [{layers: [head], dtype: float32}]}"

    dtype: Precision | None = None
    """Type of everything that is named nowhere below. Default: each tensor keeps its own."""

    norms: Precision | None = None
    """Type of the normalisation layers that no rule names."""

    rules: Annotated[tuple[PrecisionRule, ...], Limit(max_length=64)] = ()
    """Types of parts of the model, in order: where two name the same tensor, the later one holds."""

    keep: Paths = ()
    """Dotted paths of what keeps its type whatever is said above, such as `blocks.*.rotary`."""

    def __post_init__(self) -> None:
        """Mappings from YAML become rules."""
        object.__setattr__(self, "keep", listed("PrecisionModifier.keep", self.keep))
        object.__setattr__(self, "rules", _rules(self.rules))
        super().__post_init__()
        _check("PrecisionModifier.dtype", self.dtype)
        _check("PrecisionModifier.norms", self.norms)
        if not (self.dtype or self.norms or self.rules):
            raise CheckpointConfigError("PrecisionModifier: give dtype, norms or rules")

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Cast; raises NothingMatchedError, or CheckpointIncompatibleError for what cannot be cast, beforehand."""
        from preheat.modifiers.casting import cast

        return cast(context, self)


def _rules(given: Iterable[Any]) -> tuple[Any, ...]:
    if isinstance(given, (str, Mapping)):
        raise CheckpointConfigError("PrecisionModifier.rules: give a list, such as [{layers: [head], dtype: float32}]")
    built = tuple(part(PrecisionRule, rule, f"rules[{position}]") for position, rule in enumerate(given))
    if wrong := next((rule for rule in built if not isinstance(rule, PrecisionRule)), None):
        raise CheckpointConfigError(f"PrecisionModifier.rules: {wrong!r:.80} is no {{layers: [...], dtype: ...}}")
    return built


def _check(where: str, dtype: str | None) -> None:
    if dtype is not None and dtype not in get_args(Precision):
        raise CheckpointConfigError(f"{where}: {dtype!r} is none of {', '.join(get_args(Precision))}")
