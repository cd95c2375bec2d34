"""A stage of the user's own, from the user's own image."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from preheat.construction import construct
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.importing import import_class
from preheat.limits import Limit
from preheat.stage import ModelModifier


@dataclass(frozen=True)
class CustomModifier(ModelModifier):
    """Run a stage class from the training image, in the training process."""

    example: ClassVar[str] = "custom: {target: my_module.MyModifier, params: {rank: 8}}"

    target: Annotated[str, Limit(max_length=512, pattern=r"^[A-Za-z_]\w*(\.[A-Za-z_]\w*)+$")]
    """Dotted path of the class, such as `my_module.MyModifier`; it has `async def process(self, context)`."""

    params: dict[str, Any] = field(default_factory=dict)
    """Arguments of its constructor."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Build the user's stage and run it; one that leaves no entry in the report gets one with its name."""
        stage = construct(self._imported(), self.params, f"custom {self.target}")
        before = len(context.metadata.get("modifiers_applied", ()))
        result: CheckpointContext = await stage.process(context)
        if isinstance(result, CheckpointContext) and len(result.metadata.get("modifiers_applied", ())) == before:
            entry = {"type": "custom", "says": f"ran {self.target}"}
            result.metadata.setdefault("modifiers_applied", []).append(entry)
        return result

    def _imported(self) -> type:
        """The class; `os.system` is none, and who may write a pipeline may not thereby run it in pods of others."""
        found = import_class(self.target, "custom")
        if not isinstance(found, type) or not callable(getattr(found, "process", None)):
            raise CheckpointConfigError(
                f"custom: {self.target} is no stage", remedy="Name a class with `async def process(self, context)`"
            )
        return found
