"""From names to the classes of components.

Components build components, such as a merge its sources, and ask this module for them: it knows where the tables of
Preheat's own are by name, as it knows those of third parties, and imports none of them itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

from preheat.construction import snake_case, suggest
from preheat.errors import CheckpointConfigError
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier, PipelineStage

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

#: Third parties register `name = "module:Class"` here.
ENTRY_POINT_GROUP = "preheat.components"

_OWN = "preheat.components"


class ComponentCatalog:
    """The known components, by simple name, family by family; those of other packages among them."""

    @staticmethod
    def list_sources() -> list[str]:
        """Names of the sources."""
        return sorted(_family(CheckpointSource))

    @staticmethod
    def list_loaders() -> list[str]:
        """Names of the loading strategies."""
        return sorted(_family(LoadingStrategy))

    @staticmethod
    def list_modifiers() -> list[str]:
        """Names of the modifiers."""
        return sorted(_family(ModelModifier))

    @staticmethod
    def get(name: str) -> type[PipelineStage]:
        """The class of a simple name, snake_case or camelCase; an unknown one is answered with the known."""
        return component(snake_case(name))

    @staticmethod
    def get_source_target(name: str) -> str:
        """Dotted path of a source's class, for `_target_`."""
        return dotted_path(_lookup(name, _family(CheckpointSource), "source"))

    @staticmethod
    def get_loader_target(name: str) -> str:
        """Dotted path of a loading strategy's class, for `_target_`."""
        return dotted_path(_lookup(name, _family(LoadingStrategy), "loading strategy"))

    @staticmethod
    def get_modifier_target(name: str) -> str:
        """Dotted path of a modifier's class, for `_target_`."""
        return dotted_path(_lookup(name, _family(ModelModifier), "modifier"))


def built_in() -> dict[str, type[PipelineStage]]:
    """Every component of Preheat's own by name, in the order in which a pipeline runs the families."""
    return dict(_own().BUILT_IN)


@cache
def components() -> Mapping[str, type[PipelineStage]]:
    """Built-in and third-party components; a third party cannot replace a built-in one."""
    from importlib.metadata import entry_points  # 20 ms that a loader with built-in stages does not pay

    found = built_in()
    for entry in entry_points(group=ENTRY_POINT_GROUP):
        if entry.name in found:
            raise CheckpointConfigError(f"{entry.value} wants the component name {entry.name!r}, which is taken")
        found[entry.name] = _loaded(entry)
    return found


def component(name: str, where: str = "") -> type[PipelineStage]:
    """The class of a snake_case name; an unknown one is answered with the known and the nearest."""
    return built_in().get(name) or _lookup(name, components(), "component", where)


def name_of(kind: type) -> str | None:
    """The name of a component's class; None for one that is not in the catalog."""
    for table in (built_in, components):
        for name, known in table().items():
            if known is kind:
                return name
    return None


def dotted_path(component: type) -> str:
    """What `_target_` holds for a class."""
    return f"{component.__module__}.{component.__qualname__}"


def _own() -> Any:
    return import_module(_OWN)


def _loaded(entry: EntryPoint) -> type[PipelineStage]:
    """The class that another package has registered; raises CheckpointConfigError that names the package."""
    package = f"the package {entry.dist.name}" if entry.dist else "a package"
    where = f"component {entry.name!r} of {package}, {entry.value},"
    try:
        found = entry.load()
    except (ImportError, AttributeError) as error:
        raise CheckpointConfigError(
            f"{where} cannot be imported: {error}", remedy="Repair the package, or uninstall it"
        ) from error
    if not (isinstance(found, type) and issubclass(found, PipelineStage)):
        raise CheckpointConfigError(f"{where} is no subclass of preheat.PipelineStage")
    return found


def _family(kind: type) -> dict[str, type[PipelineStage]]:
    return {name: each for name, each in components().items() if issubclass(each, kind)}


def _lookup(name: str, table: Mapping[str, type[PipelineStage]], family: str, where: str = "") -> type[PipelineStage]:
    if name not in table:
        place = where and f"{where}: "
        raise CheckpointConfigError(f"{place}unknown {family} {name!r}{suggest(name, sorted(table))}")
    return table[name]
