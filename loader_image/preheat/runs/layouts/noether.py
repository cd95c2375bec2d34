"""Noether's files: `_model.th` with weights, `_optim.th` and `_trainer.th` with what a training needs besides.

A composite model has one file of weights, and perhaps one of an optimizer, for each of its parts; its trainer's file is
called as the model is: `upt.encoder_cp=latest_model.th`, `upt_cp=latest_trainer.th`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from preheat.runs.checkpoint import Checkpoint, Found
from preheat.runs.layouts.grouping import by_folder, empty_one
from preheat.runs.listing import Entry
from preheat.runs.names import CheckpointName

NAME = "noether"
MODEL, OPTIMIZER, TRAINER = "_model.th", "_optim.th", "_trainer.th"


def find(entries: Sequence[Entry]) -> Found:
    """Every model of every folder, and those that several make up."""
    checkpoints = (each for folder, files in by_folder(entries).items() for each in _Folder.of(folder, files).all())
    return Found(tuple(checkpoints))


@dataclass
class _Folder:
    """The files of one folder by what they hold."""

    path: str
    models: dict[CheckpointName, Entry] = field(default_factory=dict)
    optimizers: dict[tuple[str, str], Entry] = field(default_factory=dict)  # by model and tag
    trainers: dict[tuple[str, str], Entry] = field(default_factory=dict)
    trained: set[str] = field(default_factory=set)  # models with an optimizer at any time

    @classmethod
    def of(cls, path: str, files: Sequence[Entry]) -> _Folder:
        folder = cls(path)
        for entry in files:
            for suffix in (MODEL, OPTIMIZER, TRAINER):
                name = CheckpointName.parse(entry.name.removesuffix(suffix)) if entry.name.endswith(suffix) else None
                if name and suffix == MODEL:
                    folder.models[name] = entry
                elif name:
                    kept = folder.optimizers if suffix == OPTIMIZER else folder.trainers
                    kept[name.model, name.tag] = entry
        folder.trained = {model for model, _ in folder.optimizers}
        return folder

    def all(self) -> Iterator[Checkpoint]:
        parts = self._parts()
        whole_of = {part: whole for whole, found in parts.items() for part in found}
        for name, entry in self.models.items():
            whole = whole_of.get(name.model, "")
            found = self._checkpoint(name, {name.model: entry}, whole or name.model)
            yield replace(found, name=entry.name, part=bool(whole))
        for whole, members in parts.items():
            for name in dict.fromkeys(CheckpointName(whole, n.tag, n.info) for n in self.models if n.model in members):
                yield self._composite(name, members)

    def _parts(self) -> Mapping[str, tuple[str, ...]]:
        """The models that are made up of others, and these."""
        found: dict[str, dict[str, None]] = defaultdict(dict)
        for name in self.models:
            whole, dot, _ = name.model.partition(".")
            if dot:
                found[whole][name.model] = None
        own = {model for model, _ in self.trainers}
        return {whole: tuple(parts) for whole, parts in found.items() if len(parts) > 1 or whole in own}

    def _composite(self, name: CheckpointName, parts: Sequence[str]) -> Checkpoint:
        files = {part: self.models.get(CheckpointName(part, name.tag, name.info)) for part in parts}
        present = {part: entry for part, entry in files.items() if entry}
        missing = [f"{CheckpointName(part, name.tag, name.info)}{MODEL}" for part in parts if part not in present]
        return self._checkpoint(name, present, name.model, missing)

    def _checkpoint(
        self, name: CheckpointName, models: Mapping[str, Entry], whole: str, missing: Sequence[str] = ()
    ) -> Checkpoint:
        state, lacks = self._state(name, models, whole)
        return Checkpoint(
            layout=NAME,
            name=str(name),
            files=(*models.values(), *state),
            folder=self.path,
            model=name.model,
            info=name.info,
            tag=name.tag,
            position=name.position,
            interrupted=name.interrupted,
            training=not lacks,
            lacks=tuple(lacks),
            incomplete=f"there is no {missing[0]}" if missing else empty_one([*models.values(), *state]),
        )

    def _state(self, name: CheckpointName, models: Mapping[str, Entry], whole: str) -> tuple[list[Entry], list[str]]:
        """The files with training state, and the names of those that are not there.

        Variants of the weights have none: the optimizer's state belongs to the raw ones. Parts that are frozen have no
        optimizer at any time.
        """
        trained = [model for model in models if model in self.trained] or list(models)
        wanted = {
            f"{CheckpointName(each, name.tag)}{OPTIMIZER}": self.optimizers.get((each, name.tag)) for each in trained
        }
        wanted[f"{CheckpointName(whole, name.tag)}{TRAINER}"] = self.trainers.get((whole, name.tag))
        if name.info:
            return [], list(wanted)
        return [entry for entry in wanted.values() if entry], [file for file, entry in wanted.items() if not entry]
