"""Noether's initializers, of the model and of the parts of a composite one."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from preheat.migrate.migration import Draft
from preheat.migrate.noether.runs import run_source
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced, some


def initializers(settings: Settings, draft: Draft) -> None:
    """One initializer is a source and a strategy; several, or those of parts, are merged into one model."""
    found = [Initializer(settings, draft, path, part) for path, part in _paths(settings)]
    found = [each for each in found if each.loads]
    if len(found) > 1:
        _merged(draft, found)
    elif found:
        [one] = found
        draft.stages.append(one.source())
        strict = {"strict": one.because.made(False)} if one.part else {}
        draft.stage(one.strategy, {**one.mapping(), **some(addPrefix=one.prefix), **strict}, one.because)


def _paths(settings: Settings) -> Iterator[tuple[str, str]]:
    """Every initializer, with the part of a composite model that it is for."""
    yield from ((path, "") for path in settings.items("model.initializers"))
    parts = dict.fromkeys(
        above[1] for leaf, _ in settings.leaves() if (above := re.match(r"model\.([\w.]+)\.initializers\[", leaf))
    )
    for part in parts:
        yield from ((path, part) for path in settings.items(f"model.{part}.initializers"))


def _merged(draft: Draft, found: list[Initializer]) -> None:
    sources = [
        each.because.made({"from": each.source(), **each.mapping(without=("keep",)), **some(addPrefix=each.prefix)})
        for each in found
    ]
    first, *others = (each.because for each in found)
    draft.stages.append({"merge": first.made({"sources": sources}, *others)})
    kept = [pattern for each in found for pattern in each.mapping().get("keep", [])]
    draft.stage("weightsOnly", some(strict=first.made(False), keep=kept or None), first)
    draft.choice = None  # several files: there is no one choice to compare


class Initializer:
    """One of them."""

    def __init__(self, settings: Settings, draft: Draft, path: str, part: str) -> None:
        self.settings, self.draft, self.path, self.part = settings, draft, path, part
        self.whole = settings[path] or Traced({}, (path,))
        self.because = self["kind"] or self.whole
        self.kind = str(self.because).rpartition(".")[2]

    def __getitem__(self, name: str) -> Traced | None:
        return self.settings[f"{self.path}.{name}"]

    @property
    def loads(self) -> bool:
        """Whether it names a checkpoint; another kind of initializer is the model's own affair."""
        if self["run_id"] or self["path"]:
            return True
        self.draft.remark("names no run and no file, so it loads nothing", self.whole)
        return False

    @property
    def strategy(self) -> str:
        """Weights alone, unless it restores a training."""
        return "warmStart" if self.kind == "ResumeInitializer" or self._optimizer else "weightsOnly"

    @property
    def prefix(self) -> Traced | None:
        """Of the names of a part, in the whole model."""
        return self.because.made(f"{self.part.rpartition('.')[2]}.") if self.part else None

    @property
    def _optimizer(self) -> bool:
        optimizer = self["load_optim"]
        return bool(optimizer and optimizer.value is True)

    def source(self) -> Traced:
        """Of the run, or of the file, that it names."""
        if path := self["path"]:
            return self.draft.place(path)
        run = self["run_id"] or self.because
        tag = self["checkpoint_tag"] or self["checkpoint"] or run.made("latest")
        parts = some(stage=self["stage_name"], model=self["model_name"], info=self["model_info"])
        return run_source(self.settings, self.draft, run, tag, parts, self["output_path"])

    def mapping(self, without: tuple[str, ...] = ()) -> dict[str, Any]:
        """What is left out, renamed and kept, in Noether's order, which is ours."""
        exact, text = self["keys_to_remove"], self["patterns_to_remove"]
        exclude = [exact.made(f"^{re.escape(str(each))}$") for each in _listed(exact)] if exact else []
        exclude += [text.made(re.escape(str(each))) for each in _listed(text)] if text else []
        self.draft.settled.add(f"{self.path}.patterns_to_rename")
        kept, renamed = self["patterns_to_instantiate"], self["patterns_to_rename"]
        keep = [kept.made(self._own(re.escape(str(each)))) for each in _listed(kept)] if kept else []
        rename = [renamed.made(_rename(each)) for each in _listed(renamed)] if renamed else []
        found = some(exclude=exclude or None, rename=rename or None, keep=keep or None)
        return {name: value for name, value in found.items() if name not in without}

    def _own(self, pattern: str) -> str:
        """A pattern of the part's names, as one of the whole model's."""
        return rf"^{re.escape(str(self.prefix))}.*{pattern}" if self.part else pattern


def _listed(setting: Traced) -> list[Any]:
    return setting.value if isinstance(setting.value, list) else [setting.value]


def _rename(rule: Mapping[str, Any]) -> dict[str, str]:
    return {"pattern": str(rule.get("src")), "replacement": str(rule.get("dst") or ""), "match": "substring"}
