"""What can be told before a pipeline runs, so that it does not fail half-way, and what may be wrong when it ended well.

Problems of the environment stop a run before anything is read. All else is a warning: a configuration may hold
settings for others, and an odd end may be meant.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError
from preheat.modifiers.custom import CustomModifier
from preheat.modifiers.freezing import FreezingModifier
from preheat.modifiers.lora import LoRAModifier
from preheat.module_tree import parameters_within
from preheat.sources.fsspec import FsspecSource
from preheat.sources.s3 import S3Source
from preheat.stage import LoadingStrategy, ModelModifier, PipelineStage
from preheat.strategies.transfer_learning import TransferLearningLoader
from preheat.strategies.warm_start import WarmStartLoader
from preheat.strategies.weights_only import WeightsOnlyLoader

#: What a stage imports when it runs, and the requirement that brings it.
_LIBRARIES: tuple[tuple[type, str, str], ...] = (
    (S3Source, "botocore", "preheat[loader]"),
    (FsspecSource, "fsspec", "fsspec"),
    (LoadingStrategy, "torch", "preheat[torch]"),
    (ModelModifier, "torch", "preheat[torch]"),
    (LoRAModifier, "peft", "peft"),
)
#: Settings of Anemoi's earlier configuration, and the stage that does what they did.
_LEGACY: tuple[tuple[str, type[PipelineStage], str], ...] = (
    ("training.load_weights_only", WeightsOnlyLoader, "weightsOnly: {}"),
    ("training.transfer_learning", TransferLearningLoader, "transferLearning: {}"),
    ("training.resume_from_checkpoint", WarmStartLoader, "warmStart: {}"),
    ("resume_from_checkpoint", WarmStartLoader, "warmStart: {}"),
    ("training.submodules_to_freeze", FreezingModifier, "freezing: {layers: [...]}"),
)


@dataclass(frozen=True)
class Health:
    """Sentences about what is wrong: errors keep a run from its end, warnings do not."""

    errors: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def status(self) -> str:
        """`ok`, `warning` or `error`."""
        return "error" if self.errors else "warning" if self.warnings else "ok"

    def require(self) -> None:
        """Raise CheckpointConfigError with all errors, if there are any."""
        if self.errors:
            raise CheckpointConfigError("; ".join(self.errors), remedy="Nothing was read and nothing was changed")


def check_environment(stages: Iterable[PipelineStage], cache_dir: Path | None = None) -> Health:
    """Whether this Python can run `stages`. Imports none of the libraries that it looks for."""
    errors = []
    if sys.version_info < (3, 11):  # noqa: UP036 - a copy of this package may be on the path of an older Python
        errors.append("Python {}.{} is too old, 3.11 is the oldest that works".format(*sys.version_info))
    for stage in stages:
        for kind, module, requirement in _LIBRARIES:
            if isinstance(stage, kind) and _is_ours(stage) and not _importable(module):
                errors.append(f"{type(stage).__name__} needs {module}: pip install {requirement}")
    if cache_dir is not None and not _importable("numpy"):
        errors.append("cache_dir needs numpy: install preheat[loader]")
    if cache_dir is not None and cache_dir.exists() and not cache_dir.is_dir():
        errors.append(f"cache_dir {cache_dir} is no folder")
    return Health(errors=tuple(dict.fromkeys(errors)))


def check_configuration(config: Any, stages: Sequence[PipelineStage]) -> Health:
    """Which settings of a program's own configuration ask for what no stage does; None is a program without one."""
    warnings = [
        f"the configuration sets {path}, which a pipeline does not read, and no stage does that: add `{stage}`"
        for path, kind, stage in _LEGACY
        if _setting(config, path) and not any(isinstance(each, kind) for each in stages)
    ]
    return Health(warnings=tuple(warnings))


def check_outcome(context: CheckpointContext) -> Health:
    """What is odd about a context after its run: failed stages, tensors without memory, nothing left to train."""
    failed = [
        f"{key.partition('_')[2].partition('_')[2]} {value}"
        for key, value in context.metadata.items()
        if key.startswith("stage_") and isinstance(value, str) and value.startswith("failed: ")
    ]
    if context.model is None:
        given = [name for name in ("optimizer", "scheduler") if getattr(context, name) is not None]
        return Health(tuple(failed), tuple(f"there is an {name} and no model" for name in given))
    parameters = list(parameters_within(context.model))
    empty = _without_memory(context.model) if any(each.is_meta for each in parameters) else ()
    return Health((*failed, *empty), tuple(_untrainable(parameters)))


def _without_memory(model: Any) -> Iterable[str]:
    if empty := list(islice((name for name, each in model.named_parameters() if each.is_meta), 4)):
        yield f"on the meta device, without values: {', '.join(empty[:3])}{' and more' if len(empty) > 3 else ''}"


def _untrainable(parameters: Sequence[Any]) -> Iterable[str]:
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield "no parameter needs a gradient: nothing is left to train"


def _is_ours(stage: PipelineStage) -> bool:
    """Whether we know what it imports; a class of somebody else's may do without torch."""
    return type(stage).__module__.startswith("preheat.") and not isinstance(stage, CustomModifier)


def _importable(module: str) -> bool:
    return module in sys.modules or find_spec(module) is not None


def _setting(config: Any, path: str) -> Any:
    for key in path.split("."):
        try:
            config = config.get(key) if isinstance(config, Mapping) else getattr(config, key, None)
        except Exception:  # a reference that leads nowhere is the program's own affair
            return None
        if config is None:
            return None
    return config
