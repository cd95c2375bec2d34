"""Which weights of a checkpoint fit which tensors of a model, decided on names, shapes and dtypes alone.

Pure: no torch, no bytes, nothing is touched. Every tensor of either side ends in exactly one place of the `Match`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from preheat.errors import CheckpointIncompatibleError, NothingMatchedError

_SHOWN = 5  # names in a message
_NONE: Mapping[str, object] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Entry:
    """A tensor as matching sees it. Tensors of a model that are tied carry the same `memory`."""

    dtype: str  # a safetensors name; torch's own for dtypes that the format does not have
    shape: tuple[int, ...]
    memory: Hashable = None


@dataclass(frozen=True)
class Tolerance:
    """What a strategy reports instead of refusing."""

    missing: bool  # tensors of the model that the checkpoint does not have
    unexpected: bool  # names of the checkpoint that the model does not have
    mismatched: bool  # same name, other shape or kind of number


@dataclass(frozen=True)
class Match:
    """`pairs` are the names to move; `loaded` also holds the names that are tied to one of them."""

    pairs: tuple[str, ...]
    loaded: tuple[str, ...]
    missing: tuple[str, ...]  # keep their initial value
    unexpected: tuple[str, ...]
    mismatched: Mapping[str, str]  # name -> reason
    casts: Mapping[str, str]  # name -> `F32 -> BF16`
    bridged: Mapping[str, str]  # name -> how one size becomes the other
    brings: bool = True  # whether a single number would reach the model, if it can hold one

    @property
    def skipped(self) -> dict[str, str]:
        """Why each weight of the checkpoint that is not loaded is not."""
        return {**dict.fromkeys(self.unexpected, "not in the model"), **self.mismatched}

    @property
    def initial(self) -> dict[str, str]:
        """Why each tensor of the model that keeps its initial value does."""
        return {name: self.mismatched.get(name, "not in the checkpoint") for name in self.missing}


def match(checkpoint: Mapping[str, Entry], model: Mapping[str, Entry], bridges: Mapping[str, object] = _NONE) -> Match:
    """Compare name by name; the sizes of those in `bridges`, which say how, may differ."""
    common = [name for name in checkpoint if name in model]
    reasons = {name: misfit(checkpoint[name], model[name], name in bridges) for name in common}
    pairs = tuple(name for name in common if not reasons[name])
    filled = {model[name].memory for name in pairs} - {None}
    fitting = frozenset(pairs)
    loaded = dict.fromkeys(name for name in model if name in fitting or model[name].memory in filled)
    return Match(
        pairs=pairs,
        loaded=tuple(loaded),
        missing=tuple(name for name in model if name not in loaded),
        unexpected=tuple(name for name in checkpoint if name not in model),
        mismatched={name: reason for name, reason in reasons.items() if reason},
        casts={n: f"{checkpoint[n].dtype} -> {model[n].dtype}" for n in pairs if checkpoint[n].dtype != model[n].dtype},
        bridged={name: str(bridges[name]) for name in pairs if name in bridges},
        brings=any(_holds(checkpoint[name]) for name in pairs) or not any(map(_holds, model.values())),
    )


def misfit(source: Entry, target: Entry, bridged: bool = False) -> str:
    """Why `source` cannot become `target`, or nothing. Precision may change, the kind of number may not shrink."""
    if source.shape != target.shape and not bridged:
        return f"shape {list(source.shape)}, model has {list(target.shape)}"
    if source.dtype == target.dtype:
        return ""
    given, wanted = _kind(source.dtype), _kind(target.dtype)
    if given is None or wanted is None or given > wanted:
        return f"dtype {source.dtype}, model has {target.dtype}"
    return ""


def check(found: Match, checkpoint: Iterable[str], model: Iterable[str], tolerance: Tolerance) -> None:
    """Raise CheckpointIncompatibleError, or NothingMatchedError, with everything that is not tolerated."""
    checkpoint, model = tuple(checkpoint), tuple(model)
    faults = []
    if found.mismatched and not tolerance.mismatched:
        faults.append(f"{len(found.mismatched)} do not fit: {_some(f'{n} ({r})' for n, r in found.mismatched.items())}")
    elif not found.pairs or not found.brings:
        raise _nothing_matched(found, checkpoint, model)
    absent = [name for name in found.missing if name not in found.mismatched]
    if absent and not tolerance.missing:
        faults.append(f"{len(absent)} of the model are not in the checkpoint: {_some(absent)}")
    if found.unexpected and not tolerance.unexpected:
        faults.append(f"{len(found.unexpected)} of the checkpoint are not in the model: {_some(found.unexpected)}")
    if faults:
        hint = prefix_hint(checkpoint, model, at_least=len(found.pairs) + 1)
        raise CheckpointIncompatibleError(
            f"the checkpoint does not fit the model; tensors: {'; '.join(faults)}{hint and f'; {hint}'}",
            remedy="Correct the model or the checkpoint, or load what fits with transfer_learning",
        )


def prefix_hint(checkpoint: Iterable[str], model: Iterable[str], at_least: int = 1) -> str:
    """`without the prefix ...` when dropping a common prefix on one side makes `at_least` names match."""
    sides = {"checkpoint": tuple(checkpoint), "model": tuple(model)}
    best, hint = at_least - 1, ""
    for side, other in (("checkpoint", "model"), ("model", "checkpoint")):
        others = set(sides[other])
        for prefix in _prefixes(sides[side]):
            hits = sum(name.startswith(prefix) and name[len(prefix) :] in others for name in sides[side])
            if hits > best:
                best = hits
                hint = f"without the prefix {prefix!r} of the {side}'s names {hits} of {len(sides[side])} would match"
    return hint


def _prefixes(names: tuple[str, ...]) -> list[str]:
    """Leading dotted paths that at least half of the names share, such as `module.` or `model._orig_mod.`."""
    counts: Counter[str] = Counter()
    for name in names:
        parts = name.split(".")
        counts.update(".".join(parts[:depth]) + "." for depth in range(1, min(len(parts), 4)))
    return [prefix for prefix, count in counts.items() if count * 2 >= len(names)]


def _nothing_matched(found: Match, checkpoint: tuple[str, ...], model: tuple[str, ...]) -> NothingMatchedError:
    if found.mismatched:
        reasons = _some(f"{name} ({reason})" for name, reason in found.mismatched.items())
        return NothingMatchedError(
            f"nothing of the checkpoint fits the model: every common name differs: {reasons}",
            remedy="Check that the model is built with the settings of the checkpoint",
        )
    hint = prefix_hint(checkpoint, model)
    what = f"no tensor but empty ones, such as {found.pairs[0]}, is" if found.pairs else "no name of the checkpoint is"
    return NothingMatchedError(
        f"{what} in the model. Checkpoint: {_some(checkpoint, 3)}. Model: {_some(model, 3)}{hint and f'; {hint}'}",
        remedy="Apply it to the module whose parameters carry the checkpoint's names, before that is wrapped",
    )


def _holds(entry: Entry) -> bool:
    return 0 not in entry.shape


def _kind(dtype: str) -> int | None:
    """Rank of a kind of number: each can hold the ones before it."""
    for rank, letters in enumerate((("BOOL",), ("U", "I"), ("F", "BF"), ("C",))):
        if dtype.startswith(letters):
            return rank
    return None


def _some(names: Iterable[str], shown: int = _SHOWN) -> str:
    names = tuple(names)
    if not names:
        return "no tensors"
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more
