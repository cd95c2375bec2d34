"""From the two spellings of a stage to the stage itself, and back.

In a custom resource a stage is `{s3: {...}}`, camelCase, one key; in a file or a Hydra config it may also be
`{_target_: dotted.path, ...}`, snake_case. Class paths of Anemoi's guide resolve to the classes here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from preheat.catalog import built_in, component, components, dotted_path, name_of
from preheat.construction import camel_case, construct, plain, snake_case, suggest
from preheat.errors import CheckpointConfigError
from preheat.importing import import_class
from preheat.stage import PipelineStage

# Keys by which Hydra is told how to build an object; our stages are built in one way.
_HYDRAS_OWN = frozenset({"_target_", "_recursive_", "_convert_"})

# Anemoi's guide spells these packages; the class names are the same.
_LEGACY_CLASS = re.compile(r"^anemoi\.training\.checkpoint\.(?:sources|loaders|loading|modifiers)\.(?:[\w.]+\.)?(\w+)$")
_OTHERWISE = "`preheat migrate` translates what Anemoi's own code calls otherwise than its guide"


def build(stage: PipelineStage | Mapping[str, Any], where: str = "stage") -> PipelineStage:
    """The stage that a mapping describes, in either spelling; a stage is returned as it is."""
    if isinstance(stage, PipelineStage):
        return stage
    if not isinstance(stage, Mapping):
        raise CheckpointConfigError(f"{where}: {stage!r:.200} is not a stage. Write {{s3: {{bucket: ..., key: ...}}}}")
    described: dict[str, Any] = plain(stage)
    if kind := _unmade(stage):
        unmade: PipelineStage = construct(kind, described, where)
        return unmade
    if "_target_" in described:
        given = {name: value for name, value in described.items() if name not in _HYDRAS_OWN}
        built: PipelineStage = instantiate(described["_target_"], given, where)
        return built
    if len(described) != 1:
        keys = ", ".join(map(str, described)) or "none"
        raise CheckpointConfigError(f"{where}: one component per stage, found {keys}")
    [(name, parameters)] = described.items()
    arguments = {snake_case(key): value for key, value in (parameters or {}).items()}
    known: PipelineStage = construct(component(snake_case(name), where), arguments, f"{where}.{name}")
    return known


def instantiate(target: str, parameters: Mapping[str, Any], where: str = "stage") -> Any:
    """Import the class of a dotted path and build it. Only for pipelines that a user of this very process wrote."""
    if legacy := _LEGACY_CLASS.match(target):
        try:
            return construct(_legacy_class(legacy[1], target, where), parameters, where)
        except CheckpointConfigError as error:
            raise CheckpointConfigError(error.args[0], remedy=error.remedy or _OTHERWISE) from error
    return construct(import_class(target, where), parameters, where)


def spell(stage: PipelineStage) -> dict[str, Any]:
    """The mapping that `build` turns back into an equal stage; parameters at their default are left out."""
    if not is_dataclass(stage):
        raise CheckpointConfigError(f"{type(stage).__name__} is not a dataclass and cannot be written down")
    parameters = parameters_of(stage)
    if name := name_of(type(stage)):
        return {camel_case(name): parameters}
    return {"_target_": dotted_path(type(stage)), **{snake_case(k): v for k, v in parameters.items()}}


def parameters_of(value: Any) -> dict[str, Any]:
    """The parameters of a dataclass as a resource writes them; those at their default are left out."""
    given = ((f, getattr(value, f.name)) for f in fields(value))
    return {camel_case(f.name): _plain(each) for f, each in given if each != f.default}


def _unmade(stage: Mapping[str, Any]) -> type[PipelineStage] | None:
    """The class of a stage that Hydra built and put into a list of its own, which keeps a dataclass as a mapping."""
    omegaconf = sys.modules.get("omegaconf")
    kind = omegaconf.OmegaConf.get_type(stage) if omegaconf and omegaconf.OmegaConf.is_config(stage) else None
    return kind if isinstance(kind, type) and issubclass(kind, PipelineStage) else None


def _legacy_class(class_name: str, target: str, where: str) -> type[PipelineStage]:
    by_class = {cls.__name__: cls for cls in built_in().values()}
    if class_name not in by_class:
        by_class |= {cls.__name__: cls for cls in components().values()}
    if class_name not in by_class:
        raise CheckpointConfigError(f"{where}: {target} has no equivalent{suggest(class_name, sorted(by_class))}")
    return by_class[class_name]


def _plain(value: Any) -> Any:
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in value}
    if isinstance(value, PipelineStage):
        return spell(value)
    if is_dataclass(value):
        return parameters_of(value)
    return value
