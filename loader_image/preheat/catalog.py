"""From names to classes, and from the two spellings of a stage to the stage itself.

In a custom resource a stage is `{s3: {...}}`, camelCase, one key; in a file or a Hydra config it may also be
`{_target_: dotted.path, ...}`, snake_case. Class paths of Anemoi's guide resolve to the classes here.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from typing import Any, TypeVar

from preheat.construction import construct, import_class, plain, snake_case, suggest
from preheat.convert import Convert
from preheat.errors import CheckpointConfigError
from preheat.modifiers import MODIFIERS
from preheat.sources import SOURCES
from preheat.stage import PipelineStage
from preheat.strategies import STRATEGIES
from preheat.verify import Verify

CHECKS: dict[str, type[PipelineStage]] = {"verify": Verify}
CONVERSIONS: dict[str, type[PipelineStage]] = {"convert": Convert}

Stage = TypeVar("Stage", bound=PipelineStage)

#: Third parties register `name = "module:Class"` here.
ENTRY_POINT_GROUP = "preheat.components"

# Keys by which Hydra is told how to build an object; our stages are built in one way.
_HYDRAS_OWN = frozenset({"_target_", "_recursive_", "_convert_"})

# Anemoi's guide spells these packages; the class names are the same.
_LEGACY_CLASS = re.compile(r"^anemoi\.training\.checkpoint\.(?:sources|loaders|loading|modifiers)\.(?:[\w.]+\.)?(\w+)$")


class ComponentCatalog:
    """The known components, by simple name, family by family."""

    @staticmethod
    def list_sources() -> list[str]:
        """Names of the sources."""
        return sorted(SOURCES)

    @staticmethod
    def list_loaders() -> list[str]:
        """Names of the loading strategies."""
        return sorted(STRATEGIES)

    @staticmethod
    def list_modifiers() -> list[str]:
        """Names of the modifiers."""
        return sorted(MODIFIERS)

    @staticmethod
    def get(name: str) -> type[PipelineStage]:
        """The class of a simple name, snake_case or camelCase; an unknown one is answered with the known."""
        return _component(snake_case(name))

    @staticmethod
    def get_source_target(name: str) -> str:
        """Dotted path of a source's class, for `_target_`."""
        return dotted_path(_lookup(name, SOURCES, "source"))

    @staticmethod
    def get_loader_target(name: str) -> str:
        """Dotted path of a loading strategy's class, for `_target_`."""
        return dotted_path(_lookup(name, STRATEGIES, "loading strategy"))

    @staticmethod
    def get_modifier_target(name: str) -> str:
        """Dotted path of a modifier's class, for `_target_`."""
        return dotted_path(_lookup(name, MODIFIERS, "modifier"))


def built_in() -> dict[str, type[PipelineStage]]:
    """Every component of Preheat's own by name, in the order in which a pipeline runs the families."""
    return {**SOURCES, **CHECKS, **CONVERSIONS, **STRATEGIES, **MODIFIERS}


@cache
def components() -> Mapping[str, type[PipelineStage]]:
    """Built-in and third-party components; a third party cannot replace a built-in one."""
    from importlib.metadata import entry_points  # 20 ms that a loader with built-in stages does not pay

    found = built_in()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            raise CheckpointConfigError(f"{entry.value} wants the component name {entry.name!r}, which is taken")
        found[entry.name] = entry.load()
    return found


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
    component: PipelineStage = construct(_component(snake_case(name), where), arguments, f"{where}.{name}")
    return component


def instantiate(target: str, parameters: Mapping[str, Any], where: str = "stage") -> Any:
    """Import the class of a dotted path and build it. Only for pipelines that a user of this very process wrote."""
    if legacy := _LEGACY_CLASS.match(target):
        return construct(_legacy_class(legacy[1], target, where), parameters, where)
    return construct(import_class(target, where), parameters, where)


def spell(stage: PipelineStage) -> dict[str, Any]:
    """The mapping that `build` turns back into an equal stage; parameters at their default are left out."""
    if not is_dataclass(stage):
        raise CheckpointConfigError(f"{type(stage).__name__} is not a dataclass and cannot be written down")
    parameters = parameters_of(stage)
    if name := _name_of(type(stage)):
        return {camel_case(name): parameters}
    return {"_target_": dotted_path(type(stage)), **{snake_case(k): v for k, v in parameters.items()}}


def dotted_path(component: type) -> str:
    """What `_target_` holds for a class."""
    return f"{component.__module__}.{component.__qualname__}"


def camel_case(name: str) -> str:
    """`weights_only` -> `weightsOnly`, `from_` -> `from`."""
    head, *tail = name.split("_")
    return head + "".join(word.capitalize() for word in tail)


def _lookup(name: str, table: Mapping[str, type[Stage]], family: str, where: str = "") -> type[Stage]:
    if name not in table:
        place = where and f"{where}: "
        raise CheckpointConfigError(f"{place}unknown {family} {name!r}{suggest(name, sorted(table))}")
    return table[name]


def _component(name: str, where: str = "") -> type[PipelineStage]:
    return built_in().get(name) or _lookup(name, components(), "component", where)


def _unmade(stage: Mapping[str, Any]) -> type[PipelineStage] | None:
    """The class of a stage that Hydra built and put into a list of its own, which keeps a dataclass as a mapping."""
    omegaconf = sys.modules.get("omegaconf")
    kind = omegaconf.OmegaConf.get_type(stage) if omegaconf and omegaconf.OmegaConf.is_config(stage) else None
    return kind if isinstance(kind, type) and issubclass(kind, PipelineStage) else None


def _name_of(component: type) -> str | None:
    for table in (built_in, components):
        for name, known in table().items():
            if known is component:
                return name
    return None


def _legacy_class(class_name: str, target: str, where: str) -> type[PipelineStage]:
    by_class = {cls.__name__: cls for cls in components().values()}
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


def parameters_of(component: Any) -> dict[str, Any]:
    """The parameters of a dataclass as a resource writes them; those at their default are left out."""
    given = ((f, getattr(component, f.name)) for f in fields(component))
    return {camel_case(f.name): _plain(each) for f, each in given if each != f.default}
