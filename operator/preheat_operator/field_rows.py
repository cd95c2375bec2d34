"""A model's fields, one row each, nested ones by their path: what a person wants to know of them, in words."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

Schema = Mapping[str, Any]

# "Region; default: the one of the environment." and "Bytes. Default: all." tell what happens without the field.
_TOLD = re.compile(r"(?:^|[.;] |, )[Dd]efault: (.+?)\.$")
_WORDS = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "object": "object"}
_PLURALS = {"text": "texts", "integer": "integers", "number": "numbers", "object": "objects"}


@dataclass(frozen=True)
class Row:
    """One field."""

    path: str
    type: str
    default: str
    limits: str
    says: str


def rows(document: Schema, model: str, inner: Set[str] = frozenset()) -> Iterator[Row]:
    """The fields of a model in pydantic's JSON schema; of those in `inner` only the name and the text are told."""
    yield from _rows(document, document["$defs"][model], "", inner)


def _rows(document: Schema, model: Schema, above: str, closed: Set[str]) -> Iterator[Row]:
    for name, declared in model.get("properties", {}).items():
        schema = _resolved(document, declared)
        path, required = above + name, name in model.get("required", ())
        says, default = _told(schema.get("description", ""), declared, required=required)
        yield Row(path, _type(document, schema), default, _limits(document, schema), says)
        if name not in closed:
            yield from _inside(document, schema, path)


def _inside(document: Schema, schema: Schema, path: str) -> Iterator[Row]:
    """Rows of what an object or the items of a list hold; a place where several components fit has its own sections."""
    if "items" in schema:
        path, schema = f"{path}[]", _resolved(document, schema["items"])
    if not _is_place(schema):
        yield from _rows(document, schema, f"{path}.", frozenset())


def _is_place(schema: Schema) -> bool:
    return schema.get("maxProperties") == 1 and "properties" in schema


def _resolved(document: Schema, schema: Schema) -> Schema:
    """The schema behind `$ref` and `X | null`; the text at the place of use wins."""
    while "$ref" in schema or "anyOf" in schema:
        around = {key: value for key, value in schema.items() if key not in ("$ref", "anyOf", "default")}
        if "$ref" in schema:
            inner = document["$defs"][schema["$ref"].rpartition("/")[2]]
        else:
            [inner] = [each for each in schema["anyOf"] if each.get("type") != "null"]
        schema = {**inner, **around}
    return schema


def _told(text: str, declared: Schema, *, required: bool) -> tuple[str, str]:
    """What a field is about, and what happens without it, which its text may hold."""
    text, told = " ".join(text.split()), ""
    if found := _TOLD.search(text):
        told, text = found[1], text[: found.start()] + ("." if found.start() else "")
    value = declared.get("default")
    if required:
        return text, "required"
    if value in (None, [], {}):
        return text, told or "none"
    return text, f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _type(document: Schema, schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string"):
        return "quantity"
    if "enum" in schema:
        *choices, last = [f"`{each}`" if each else '`""`' for each in schema["enum"]]
        return f"{', '.join(choices)} or {last}" if choices else last
    if "items" in schema:
        return f"list of {_several(document, _resolved(document, schema['items']))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"map of names to {_several(document, _resolved(document, schema['additionalProperties']))}"
    if _is_place(schema):
        return "[source](#stages)"
    return "time" if schema.get("format") == "date-time" else _WORDS[schema.get("type", "object")]


def _several(document: Schema, schema: Schema) -> str:
    if _is_place(schema):
        return "[stages](#stages)" if "verify" in schema["properties"] else "[sources](#stages)"
    kind = _type(document, schema)
    return _PLURALS.get(kind, kind.replace("list of", "lists of", 1))


def _limits(document: Schema, schema: Schema) -> str:
    if schema.get("x-kubernetes-int-or-string") or _is_place(schema):
        return ""
    found: list[str] = []
    for least, most, unit in _BOUNDS:
        found += _between(schema.get(least), schema.get(most), unit)
    if "pattern" in schema:
        found.append(f"matches `{schema['pattern']}`")
    inner = schema.get("items") or schema.get("additionalProperties")
    if isinstance(inner, Mapping) and (each := _limits_of_each(document, inner)):
        found.append(f"each {each}")
    return "; ".join(found)


def _limits_of_each(document: Schema, schema: Schema) -> str:
    schema = _resolved(document, schema)
    return "" if schema.get("type", "object") == "object" else _limits(document, schema)


_BOUNDS = (
    ("minimum", "maximum", ""),
    ("minLength", "maxLength", " characters"),
    ("minItems", "maxItems", " items"),
    ("minProperties", "maxProperties", " names"),
)


def _between(least: float | None, most: float | None, unit: str) -> Iterator[str]:
    if least and most is not None:
        yield f"{_number(least)} to {_number(most)}{unit}"
    elif most is not None:
        yield f"{'0 to' if least == 0 else 'at most'} {_number(most)}{unit}"
    elif least is not None:
        yield f"at least {_number(least)}{unit}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) or not float(value).is_integer() else f"{int(value):,}"
