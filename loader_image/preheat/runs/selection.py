"""Which checkpoint of a run a selector means, best first, and why others that it could mean are passed over.

Pure but for `read`, which is asked for the few pointers that the selector means.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from preheat.errors import CheckpointConfigError, CheckpointLoadError, CheckpointNotFoundError
from preheat.runs.checkpoint import Checkpoint, Found, Pointer
from preheat.runs.names import BEST, LATEST, metric_of, same_info
from preheat.runs.order import natural, newest_first
from preheat.runs.position import Position

_SHOWN = 8
_EXTREME = re.compile(r"^(min|max)\.(.+)$")
_FOLDER = "checkpoints"

#: Tells the name of the checkpoint that a pointer names.
Read = Callable[[Pointer], str]


@dataclass(frozen=True)
class Wanted:
    """What is looked for in a run."""

    select: str = LATEST
    model: str | None = None
    info: str | None = None
    training: bool = False  # a training is to go on from it


@dataclass(frozen=True)
class Unfit:
    """A checkpoint that the selector means and that is not to be had, and why."""

    checkpoint: Checkpoint
    reason: str

    def __str__(self) -> str:
        return f"{self.checkpoint.path}: {self.reason}"


@dataclass(frozen=True)
class Selection:
    """What a selector means: the checkpoints that are to be had, best first, and the others."""

    checkpoints: tuple[Checkpoint, ...]
    unfit: tuple[Unfit, ...] = ()

    @classmethod
    def of(cls, found: Found, wanted: Wanted, where: str, read: Read) -> Selection:
        """What is wanted of the run at `where`.

        Raises CheckpointNotFoundError when it has none, and CheckpointConfigError when it is not clear whose are meant.
        """
        scope = _Scope.of(found, wanted, where)
        meant = scope.meant(wanted.select, read)
        reasons = [(checkpoint, _reason_against(checkpoint, wanted)) for checkpoint in meant]
        fit = tuple(checkpoint for checkpoint, reason in reasons if not reason)
        unfit = tuple(Unfit(checkpoint, reason) for checkpoint, reason in reasons if reason)
        if not fit:
            raise scope.nothing(wanted, unfit)
        return cls(fit, unfit)


@dataclass(frozen=True)
class _Scope:
    """The checkpoints of one folder that are of one model, and of one variant of its weights."""

    checkpoints: tuple[Checkpoint, ...]
    pointers: tuple[Pointer, ...]
    where: str
    named: bool = False  # whether the model is, so that one which is a part of another is meant as it is

    @classmethod
    def of(cls, found: Found, wanted: Wanted, where: str) -> _Scope:
        home = _home(found, where)
        checkpoints = [each for each in found.checkpoints if each.home == home]
        pointers = [each for each in found.pointers if each.home == home]
        if any(wanted.select == each.name for each in checkpoints):  # which says it all
            return cls(tuple(checkpoints), tuple(pointers), where)
        model = _model(checkpoints, wanted, where)
        checkpoints = _variant([each for each in checkpoints if each.model == model], wanted, where)
        if model:
            pointers = [each for each in pointers if each.model == model and same_info(each.info, wanted.info or "")]
        return cls(tuple(checkpoints), tuple(pointers), where, wanted.model is not None)

    def meant(self, select: str, read: Read) -> list[Checkpoint]:
        """What a selector means, best first."""
        if exact := [each for each in self.checkpoints if each.name == select]:
            return exact
        if select == LATEST:
            return newest_first(each for each in self._whole() if not _is_best(each.tag))
        if extreme := _EXTREME.match(select):
            return self._extreme(extreme[2].replace("/", "."), -1 if extreme[1] == "min" else 1)
        if position := Position.parse(select):
            fitting = [each for each in self._whole() if each.position and position.fits(each.position)]
            return sorted(newest_first(fitting), key=lambda each: each.interrupted)
        return self._tagged(select, read)

    def _whole(self) -> Iterator[Checkpoint]:
        return (each for each in self.checkpoints if self.named or not each.part)

    def _tagged(self, tag: str, read: Read) -> list[Checkpoint]:
        found = [each for each in self.checkpoints if _same_tag(each.tag, tag)]
        for pointer in self.pointers:
            if pointer.tag != BEST and _same_tag(pointer.tag, tag):
                found += self._named_by(pointer, read)
        if not found and _is_best(tag):
            for pointer in self.pointers:
                found += self._named_by(replace(pointer, tag=tag), read) if pointer.tag == BEST else []
        return newest_first(dict.fromkeys(found))

    def _named_by(self, pointer: Pointer, read: Read) -> list[Checkpoint]:
        try:
            name = read(pointer)
        except CheckpointLoadError as error:
            raise type(error)(error.args[0], remedy=self._which_way(pointer.tag) or error.remedy) from error
        found = [each for each in self.checkpoints if each.name == name and each.layout == pointer.layout]
        if not found:
            raise CheckpointNotFoundError(
                f"{self.where}: {pointer.entry.path} names {name!r:.200}, which is not there",
                remedy="Select another one, or restore it",
            )
        return found

    def _extreme(self, metric: str, sign: int) -> list[Checkpoint]:
        known = newest_first(each for each in self.checkpoints if metric in each.metrics)
        return sorted(known, key=lambda each: sign * each.metrics[metric], reverse=True)

    def nothing(self, wanted: Wanted, unfit: Sequence[Unfit]) -> CheckpointNotFoundError:
        """Why there is none to be had, with what there is."""
        asked = f"{self.where}: no checkpoint to be had for select: {wanted.select}"
        if unfit:
            more = f"; and {len(unfit) - _SHOWN} more" if len(unfit) > _SHOWN else ""
            why = "; ".join(map(str, unfit[:_SHOWN])) + more
            return CheckpointNotFoundError(f"{asked}. Passed over: {why}", remedy=_remedy_for(unfit))
        there = list(dict.fromkeys([*(each.name for each in newest_first(self.checkpoints)), *self._tags()]))
        return CheckpointNotFoundError(
            f"{asked}; there are {_some(there)}", remedy=self._hint(wanted.select) or "Select one of them"
        )

    def _tags(self) -> list[str]:
        return [each.tag for each in self.pointers] + [each.tag for each in self.checkpoints if each.tag]

    def _hint(self, select: str) -> str:
        if said := self._which_way(select):
            return said
        if Position.parse(select.upper()) and not Position.parse(select):
            return f"Positions are written {select.upper()}"
        near = get_close_matches(select, self._tags(), n=1)
        return f"Did you mean {near[0]}?" if near else ""

    def _which_way(self, select: str) -> str:
        metric = metric_of(select)
        if metric and any(metric in each.metrics for each in self.checkpoints):
            return f"The names hold {metric}, not which way is better: select min.{metric} or max.{metric}"
        return ""


def _reason_against(checkpoint: Checkpoint, wanted: Wanted) -> str:
    if checkpoint.incomplete:
        return f"it is incomplete: {checkpoint.incomplete}"
    if wanted.training and checkpoint.training is False:
        lacks = f": there is no {checkpoint.lacks[0]}" if checkpoint.lacks else ""
        return f"no training can go on from it{lacks}"
    return ""


def _remedy_for(unfit: Sequence[Unfit]) -> str:
    if any(not each.checkpoint.incomplete for each in unfit):
        return "Save the optimizer's state too, or take the weights alone with weightsOnly or coldStart"
    return "Wait until one is finished, or select another one"


def _home(found: Found, where: str) -> str:
    """The folder whose checkpoints are meant: the run's own, its `checkpoints`, or the only one that has any."""
    homes = {each.home for each in found.checkpoints}
    for home in ("", _FOLDER):
        if home in homes:
            return home
    if len(homes) == 1:
        return next(iter(homes))
    raise CheckpointConfigError(
        f"{where}: there are checkpoints in {len(homes)} folders: {_some(sorted(homes, key=natural, reverse=True))}",
        remedy="Say which is meant with runId and stage, or make root the run's own folder",
    )


def _model(checkpoints: Sequence[Checkpoint], wanted: Wanted, where: str) -> str:
    """The model that is meant: the one that is named, or the only one."""
    models = dict.fromkeys(each.model for each in checkpoints)
    if wanted.model is not None:
        if wanted.model not in models:
            raise CheckpointNotFoundError(
                f"{where}: there is no checkpoint of model {wanted.model!r}; there are those of {_models(models)}",
                remedy="Check `model`",
            )
        return wanted.model
    whole = dict.fromkeys(each.model for each in checkpoints if not each.part) or models
    if len(whole) > 1:
        raise CheckpointConfigError(
            f"{where}: there are checkpoints of {len(whole)} models: {_models(whole)}", remedy="Say which with `model`"
        )
    return next(iter(whole))


def _models(models: Iterable[str]) -> str:
    return _some([model or "no name" for model in models])


def _variant(checkpoints: Sequence[Checkpoint], wanted: Wanted, where: str) -> list[Checkpoint]:
    """Those of the variant that is meant: the one that is named, else the raw weights."""
    found = [each for each in checkpoints if same_info(each.info, wanted.info or "")]
    if not found:
        infos = dict.fromkeys(each.info or "the raw weights" for each in checkpoints)
        which = f"with info {wanted.info!r}" if wanted.info else "of the raw weights"
        raise CheckpointNotFoundError(
            f"{where}: there is no checkpoint {which}; there are {_some(infos)}", remedy="Check `info`"
        )
    return found


def _is_best(tag: str) -> bool:
    """Whether a name says how good it is, and not when it was saved."""
    return bool(metric_of(tag)) or re.match(rf"{BEST}(?![a-z])", tag) is not None


def _same_tag(tag: str, wanted: str) -> bool:
    metric = metric_of(wanted)
    return tag == wanted or (metric is not None and metric_of(tag) == metric)


def _some(names: Iterable[str]) -> str:
    every = list(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return (", ".join(each[:200] for each in every[:_SHOWN]) or "none") + more
