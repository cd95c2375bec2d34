"""The fields by which some of a checkpoint's tensors are taken, under other names: `convert`, `merge`, every strategy.

On the checkpoint's own names `select` and `exclude` work first; then `stripPrefix`, `rename` and `addPrefix`, in this
order whatever the order in the YAML.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from preheat.construction import construct
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit, check_limits
from preheat.names import Patterns, Rename, compiled, left_out, renamed
from preheat.paths import listed

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Rule = TypeVar("Rule", bound="DataclassInstance")


@dataclass(frozen=True, kw_only=True)
class NameMapping:
    """Takes some of the tensors, under other names."""

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

    def __post_init__(self) -> None:
        """Lists from YAML become tuples, and patterns have to be regular expressions."""
        self._list("select", "exclude", "strip_prefix")
        object.__setattr__(self, "rename", rules_of(Rename, self.rename, f"{type(self).__name__}.rename"))
        check_limits(self)
        self._compile("select", "exclude")

    def mapping(self, names: Iterable[str]) -> dict[str, str]:
        """New name -> name in the checkpoint, without those left out.

        Raises NothingMatchedError naming a pattern that matches nothing, CheckpointIncompatibleError for two names
        that become one.
        """
        names = list(names)
        left = self.left_out(names)
        kept = [name for name in names if name not in left]
        return renamed(type(self).__name__, kept, self.strip_prefix, self.rename, self.add_prefix or "")

    def left_out(self, names: Iterable[str]) -> dict[str, str]:
        """Why each name that is not taken is not."""
        return left_out(type(self).__name__, names, self.select, self.exclude)

    def follow(self, names: Iterable[str]) -> dict[str, str | None]:
        """What becomes of each name in the checkpoint; None for one that is left out."""
        names = list(names)
        return {**dict.fromkeys(names), **{old: new for new, old in self.mapping(names).items()}}

    def _list(self, *fields: str) -> None:
        for name in fields:
            object.__setattr__(self, name, listed(f"{type(self).__name__}.{name}", getattr(self, name)))

    def _compile(self, *fields: str) -> None:
        for name in fields:
            for pattern in getattr(self, name):
                compiled(f"{type(self).__name__}.{name}", pattern)


def rules_of(kind: type[Rule], given: Any, where: str) -> tuple[Rule, ...]:
    """A list of rules, of which YAML's mappings are built; raises CheckpointConfigError that names `where`."""
    if isinstance(given, (str, Mapping)) or not all(isinstance(rule, (kind, Mapping)) for rule in given):
        needed = ", ".join(f"{each.name}: ..." for each in fields(kind) if each.default is MISSING)
        raise CheckpointConfigError(f"{where}: give a list of {{{needed}}}")
    return tuple(rule if isinstance(rule, kind) else construct(kind, rule, where) for rule in given)
