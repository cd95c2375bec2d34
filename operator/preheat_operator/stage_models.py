"""The stages as pydantic models, derived from the dataclasses in `preheat`: nothing is declared twice.

One definition then serves three readers: validation without a cluster, the resource's schema, `kubectl explain`.
Third-party components are left out: a schema that differs from cluster to cluster is no schema.
"""

from __future__ import annotations

import ast
import inspect
import re
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields, is_dataclass
from difflib import get_close_matches
from functools import cache, partial
from itertools import pairwise
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from pydantic import AfterValidator, BaseModel, ConfigDict, create_model, model_validator
from pydantic import Field as Property

from preheat.construction import camel_case
from preheat.limits import Limit
from preheat.sources import FINDERS, PLACES
from preheat.sources.run import RunSource
from preheat.stage import CheckpointSource, Place

#: The bound of a string whose parameter declares none: the API server budgets CEL rules by these lengths.
DEFAULT_LENGTH = 1024


class Part(BaseModel):
    """What every object of the resource has in common: camelCase, no unknown fields, no silent conversions."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=camel_case, use_attribute_docstrings=True
    )


class Derived(Part):
    """A part that is made here: it has no source text in which pydantic would search for its attributes' strings."""

    model_config = ConfigDict(use_attribute_docstrings=False)


@cache
def stage_model(component: type) -> type[Part]:
    """The model of a stage dataclass, or of one that a parameter holds: same parameters, same bounds, same texts."""
    hints = get_type_hints(component, include_extras=True)
    docs = _attribute_docs(component)
    parameters: dict[str, Any] = {
        field.name: _parameter(field, hints[field.name], docs.get(field.name, "")) for field in fields(component)
    }
    return create_model(component.__name__, __base__=Derived, __doc__=inspect.getdoc(component), **parameters)


class OneComponent(Derived):
    """Exactly one of these properties, named after the component."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 1, "maxProperties": 1})

    @model_validator(mode="before")
    @classmethod
    def _exactly_one_known(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        if len(value) != 1:
            raise ValueError(f"one component per stage, found {', '.join(map(str, value)) or 'none'}")
        [name], known = value, [field.alias for field in cls.model_fields.values() if field.alias]
        if name not in known:
            nearest = get_close_matches(str(name), known, n=1)
            hint = f", did you mean {nearest[0]!r}" if nearest else ""
            raise ValueError(f"unknown component {name!r}{hint}? Known: {', '.join(known)}")
        if value[name] is None:
            raise ValueError(f"{name} has no parameters; write `{name}: {{}}` to take its defaults")
        return value


def one_of(name: str, doc: str, components: Mapping[str, type]) -> type[OneComponent]:
    """The model of a place in the resource where one of several components stands."""
    models = {camel_case(each): stage_model(component) for each, component in components.items()}
    parameters: dict[str, Any] = {
        each: (model | None, Property(None, alias=each, description=model.__doc__)) for each, model in models.items()
    }
    return create_model(name, __base__=OneComponent, __doc__=doc, **parameters)


@cache
def _place() -> type[OneComponent]:
    return one_of("Place", "One place: exactly one of these properties.", PLACES)


@cache
def _source() -> type[OneComponent]:
    return one_of("Source", "One source: exactly one of these properties.", {**PLACES, **FINDERS})


def _parameter(field: Field[Any], hint: Any, doc: str) -> tuple[Any, Any]:
    if field.default_factory is not MISSING:
        return _bounded(hint, doc), Property(default_factory=field.default_factory, description=doc)
    default: Any = ... if field.default is MISSING else field.default
    if isinstance(default, (bool, int, float, str)):
        described = f"{doc} Default: {str(default).lower() if isinstance(default, bool) else default}."
        return _bounded(hint, doc), Property(default, description=described)
    return _bounded(hint, doc), Property(default, description=doc)


@cache
def _run() -> type[OneComponent]:
    doc = "A run, or the place that is its folder: exactly one of these properties."
    return one_of("RunPlace", doc, {"run": RunSource, **PLACES})


def _bounded(hint: Any, doc: str) -> Any:
    """The type hint with `Limit` in pydantic's words, and tuples as the lists they are in JSON."""
    if get_origin(hint) is Annotated:
        bare, *extras = get_args(hint)
        limit = next((extra for extra in extras if isinstance(extra, Limit)), Limit())
        return Annotated[(_bounded_items(bare, limit.items, doc), *_constraints(limit, doc))]
    if hint == RunSource | Place:
        return _run()
    if get_origin(hint) in (Union, UnionType):
        return Union[tuple(_bounded(each, doc) for each in get_args(hint))]  # noqa: UP007 built from a list
    return _bounded_items(hint, None, doc)


def _bounded_items(hint: Any, items: Limit | None, doc: str) -> Any:
    if hint is Place:
        return _place()
    if hint is CheckpointSource:
        return _source()
    if is_dataclass(hint):
        return stage_model(hint)  # type: ignore[arg-type]
    if get_origin(hint) is tuple:
        inner = get_args(hint)[0]
        return list[_bounded(Annotated[inner, items] if items else inner, doc)]  # type: ignore[misc]
    if get_origin(hint) is dict:
        return dict[str, _bounded(get_args(hint)[1], doc)]  # type: ignore[misc]
    return hint


def _constraints(limit: Limit, doc: str) -> list[Any]:
    bounds = Property(
        max_length=limit.max_length,
        min_length=limit.min_length,
        ge=limit.minimum,
        le=limit.maximum,
        json_schema_extra={"pattern": limit.pattern} if limit.pattern else None,
    )
    return [bounds, AfterValidator(partial(_match, limit.pattern, doc))] if limit.pattern else [bounds]


def _match(pattern: str, doc: str, value: str) -> str:
    if not re.search(pattern, value):  # the value stays out of the text: it may hold what does not belong there
        raise ValueError(mismatch(pattern, doc))
    return value


def mismatch(pattern: str, doc: str) -> str:
    """What to say of a value that does not match: the parameter's own text and the pattern."""
    return f"{doc} It has to match {pattern}"


def _attribute_docs(component: type) -> dict[str, str]:
    """The string below each attribute, base classes first."""
    docs: dict[str, str] = {}
    for cls in reversed(component.__mro__[:-1]):
        if not cls.__module__.startswith("preheat."):
            continue
        for attribute, below in pairwise(_classes(cls.__module__)[cls.__name__].body):
            if isinstance(attribute, ast.AnnAssign) and isinstance(attribute.target, ast.Name) and _is_text(below):
                docs[attribute.target.id] = " ".join(ast.literal_eval(below.value).split())  # type: ignore[attr-defined]
    return docs


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The module's classes: inspect would search and parse the whole module for each one again."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def _is_text(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
