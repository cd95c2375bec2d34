"""Hydra's `defaults` lists, resolved as far as their files are there.

Hydra's own `compose` wants every file, plugin and search path of a training; a configuration that is migrated has often
left them. So what is there is composed here by Hydra's rules, and what is not is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from preheat.migrate.files import load_any, merged
from preheat.migrate.traced import Remark

_HEADER = re.compile(r"^\s*#\s*@package\s+(\S+)", re.MULTILINE)
_SELF = "_self_"


def composed(
    path: Path, document: Mapping[str, Any], choices: Mapping[str, Any]
) -> tuple[dict[str, Any], list[Remark]]:
    """The document over what its defaults name; `choices` are settings of which some may choose from a group."""
    root = _root(path, document)
    composition = _Composition(root, {(k, None): str(v) for k, v in choices.items() if (root / k).is_dir()})
    group = _group_of(path, root)
    start = (path, _package("", _header(path) or group.replace("/", ".")), group)
    list(composition.parts(*start))  # a file further down may choose for one further up: what is chosen is known then
    composition.missing.clear()
    whole: dict[str, Any] = {}
    for package, body in composition.parts(*start):
        whole = merged(whole, _placed(package, body))
    return whole, composition.missing


@dataclass(frozen=True)
class _Entry:
    """One item of a defaults list."""

    group: str  # below the root; nothing: the name is a file's
    name: str | None
    package: str | None
    optional: bool = False
    override: bool = False

    @property
    def place(self) -> tuple[str, str | None]:
        """What a choice is made for: a group may be included twice, in two packages."""
        return self.group, self.package


@dataclass
class _Composition:
    root: Path
    choices: dict[tuple[str, str | None], str]  # what is chosen elsewhere than in the list that includes it
    included: set[tuple[str, str | None]] = field(default_factory=set)  # by a list, and not only overridden
    missing: list[Remark] = field(default_factory=list)
    seen: list[Path] = field(default_factory=list)

    def parts(self, path: Path, package: str, group: str) -> Iterator[tuple[str, Any]]:
        """What a file and those that it includes contribute, in order, each with the package that it goes to."""
        body = load_any(path)
        entries = _entries(body, group)
        self.choices |= {each.place: each.name for each in entries if each.override and each.name}
        self.included |= {each.place for each in entries if not each.override}
        own = {name: value for name, value in body.items() if name != "defaults"} if isinstance(body, dict) else body
        self.seen.append(path)
        for entry in entries:
            if entry.name == _SELF:
                yield package, own
            elif not entry.override or entry.place not in self.included:
                yield from self._included(entry, package)
        self.seen.pop()
        if all(entry.name != _SELF for entry in entries):
            yield package, own

    def _included(self, entry: _Entry, package: str) -> Iterator[tuple[str, Any]]:
        name = self.choices.get(entry.place, entry.name) if entry.group else entry.name
        if name in (None, "null"):
            return
        path = self.root / entry.group / f"{str(name).removesuffix('.yaml')}.yaml"
        if path in self.seen or entry.group.split("/")[0] == "hydra":
            return
        if not path.is_file():
            if not entry.optional:
                self.missing.append(Remark(("defaults",), _not_there(entry.group, name)))
            return
        group = str(PurePosixPath(entry.group, str(name)).parent)
        given = entry.package or _header(path) or _relative(entry.group.replace("/", "."), package)
        yield from self.parts(path, _package(package, given), "" if group == "." else group)


def _entries(body: Any, group: str) -> list[_Entry]:
    listed = body.get("defaults") if isinstance(body, dict) else None
    return [entry for item in listed or () for entry in _parsed(item, group)]


def _parsed(item: Any, group: str) -> Iterator[_Entry]:
    if isinstance(item, str):
        name, _, package = item.partition("@")
        if name == _SELF:
            yield _Entry("", _SELF, None)
        else:
            path = PurePosixPath(name[1:] if name.startswith("/") else str(PurePosixPath(group, name)))
            yield _Entry("", str(path), package or None)
    elif isinstance(item, Mapping):
        for words, names in item.items():
            *kinds, where = str(words).split()
            target, _, package = where.partition("@")
            place = target[1:] if target.startswith("/") else str(PurePosixPath(group, target))
            for name in names if isinstance(names, list) else [names]:
                text = None if name is None else str(name)
                yield _Entry(place, text, package or None, "optional" in kinds, "override" in kinds)


def _header(path: Path) -> str | None:
    found = _HEADER.search(path.read_text(encoding="utf-8"))
    return found[1] if found else None


def _package(outer: str, given: str) -> str:
    """The package that `given` means within another."""
    if given in ("", "_here_"):
        return outer
    if given == "_global_" or given.startswith("_global_."):
        return given.removeprefix("_global_").lstrip(".")
    return f"{outer}.{given}".strip(".")


def _relative(group: str, package: str) -> str:
    """A group's default package, within the package of the list that it is in."""
    return group.removeprefix(f"{package}.") if package else group


def _placed(package: str, body: Any) -> Any:
    for name in reversed([name for name in package.split(".") if name]):
        body = {name: body}
    return body


def _root(path: Path, document: Mapping[str, Any]) -> Path:
    """The folder that groups are in: the nearest that has one of those that the list names."""
    groups = {entry.group.split("/")[0] for entry in _entries(document, "") if entry.group}
    for folder in path.absolute().parents:
        if any((folder / group).is_dir() for group in groups):
            return folder
    return path.absolute().parent


def _group_of(path: Path, root: Path) -> str:
    group = str(PurePosixPath(*path.absolute().parent.relative_to(root).parts))
    return "" if group == "." else group


def _not_there(group: str, name: Any) -> str:
    what = f"{group}/{name}" if group else str(name)
    if "?" in what:
        return f"{group} is left to the command line: name it as in `preheat migrate CONFIG {group}=NAME`"
    return f"{what}.yaml is not beside the configuration, so what it sets is not known"
