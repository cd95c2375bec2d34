"""What one run of a pipeline carries from stage to stage."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from preheat.blob import Patience
from preheat.errors import CheckpointError

if TYPE_CHECKING:
    from preheat.checks import Checks
    from preheat.formats.training_state import Parts
    from preheat.ranks import Ranks
    from preheat.stage import CheckpointSource, ModelModifier
    from preheat.strategies.weights import Weights


@dataclass
class CheckpointContext:
    """Model, checkpoint and everything said about them; the field names are those of Anemoi's guide.

    `checkpoint_data` is a lazy mapping shaped like the checkpoint: tensors are read when they are asked for.
    """

    checkpoint_path: str | Path | None = None
    checkpoint_data: Mapping[str, Any] | None = None
    model: Any = None
    optimizer: Any = None
    scheduler: Any = None
    metadata: dict[str, Any] = field(default_factory=dict)
    config: Any = None
    checkpoint_format: str | None = None
    pl_module: Any = None
    #: The gradients' scaler of a training in mixed precision.
    scaler: Any = None
    #: The stage that opened the checkpoint.
    source: CheckpointSource | None = None
    #: What later reads of `checkpoint_data` must verify; a `verify` stage tightens it.
    checks: Checks | None = None
    #: The averaged weights that the pipeline's strategy takes in place of the raw ones; see `LoadingStrategy.ema`.
    ema: str | None = None
    #: How long sources are tried.
    patience: Patience = field(default_factory=Patience)
    #: Where tensors on the meta device get memory; None: where the rest of the model is.
    device: Any = None
    #: The other processes that load the same checkpoint; None: this one answers for itself.
    ranks: Ranks | None = None
    #: The modifiers of the pipeline, which may claim weights before a strategy takes them; see `ModelModifier.claim`.
    modifiers: Sequence[ModelModifier] = ()
    #: The checkpoint's weights under the names that a strategy gave them, for the modifiers that have claimed some.
    weights: Weights | None = None
    #: Whether a framework restores optimizers and progress by itself, from the bundle.
    restored_elsewhere: bool = False
    #: What a warm start asks before it touches anything; raises where a framework cannot go on with such parts.
    resumable: Callable[[Parts], None] | None = None
    #: Whether a stage has brought weights of the checkpoint into the model.
    weights_applied: bool = False

    def together(self, step: str) -> AbstractContextManager[dict[str, str]]:
        """A block that all processes leave well, with equal facts, or none does: each raises what one of them met."""
        return self.ranks.together(step) if self.ranks else nullcontext({})

    def update_metadata(self, **values: Any) -> None:
        """Record facts about the run; later values replace earlier ones."""
        self.metadata.update(values)

    def get_metadata(self, key: str, default: Any = None) -> Any:
        """A recorded fact, or `default`."""
        return self.metadata.get(key, default)

    def add_warnings(self, messages: Iterable[str]) -> None:
        """Record what checks that only warn have found."""
        if found := list(dict.fromkeys([*self.metadata.get("warnings", ()), *messages])):
            self.metadata["warnings"] = found

    def has_checkpoint_data(self) -> bool:
        """Whether a source has run; an empty mapping counts as no data."""
        return bool(self.checkpoint_data)

    def validate_for_stage(self, stage: str, required_fields: list[str]) -> None:
        """Raise CheckpointError naming every field that `stage` needs and that is unset."""
        missing = [name for name in required_fields if getattr(self, name, None) is None]
        if missing:
            raise CheckpointError(f"{stage} needs {', '.join(missing)} in the context, which is not set")

    def __repr__(self) -> str:
        shown = (name for name, value in vars(self).items() if not _unset(value))
        return f"CheckpointContext({', '.join(shown)})"


def _unset(value: Any) -> bool:
    """Asked without `==`, for which a lazy mapping would read all of its tensors."""
    return value is None or value is False or (isinstance(value, (dict, list, tuple)) and not value)
