"""Objects in files, as `kubectl apply -f` takes them: several documents, lists, standard input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from preheat_operator.plugin.shapes import UnusableError, check_shape

Object = dict[str, Any]


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes has it: a time is a text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, expression) for tag, expression in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class _Dumper(yaml.SafeDumper):
    """YAML that Kubernetes, too, reads as the same: its reader takes `y` for a bool and `1e3` for a number."""


_MISREAD = re.compile(r"[yYnN]|[-+]?[0-9][0-9_]*[eE][-+]?[0-9]+|0[oO][0-7]+")


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.Node:
    style = '"' if _MISREAD.fullmatch(text) else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def read(files: Sequence[str]) -> list[Object]:
    """The objects of all files, `-` for standard input; raises UnusableError that names the file."""
    return [each for file in files for each in _objects(file)]


def written(objects: Sequence[Object]) -> str:
    """The objects as YAML, in one stream."""
    return yaml.dump_all(objects, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True)


def common_namespace(documents: Sequence[Object], given: str | None) -> str:
    """Where objects are that name no namespace: in the given one, else in the only one that others name."""
    named = {(each.get("metadata") or {}).get("namespace") for each in documents} - {None}
    return given or (str(named.pop()) if len(named) == 1 else "default")


def name_of(document: Mapping[str, Any]) -> str:
    """`job/finetune`, as people call an object."""
    metadata = document.get("metadata") or {}
    name = metadata.get("name") or f"{metadata.get('generateName', '')}..."
    return f"{str(document.get('kind', 'object')).lower()}/{name}"


def _objects(file: str) -> Iterator[Object]:
    where = "standard input" if file == "-" else file
    for document in _documents(file, where):
        if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
            raise UnusableError(f"{where} holds what is no Kubernetes object: it has no `kind`")
        items = document.get("items") if document["kind"].endswith("List") else [document]
        for item in items or ():
            if not isinstance(item, dict):
                raise UnusableError(f"{where} holds a list with what is no Kubernetes object")
            check_shape(item, f"{where}: {name_of(item)}")
            yield item


def _documents(file: str, where: str) -> list[Any]:
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text()
        return [found for found in yaml.load_all(text, Loader=_Loader) if found]
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text"
        raise UnusableError(f"{where} cannot be read: {reason}") from error
    except yaml.YAMLError as error:
        raise UnusableError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
