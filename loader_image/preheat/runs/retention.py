"""Which checkpoints of a run stay, and why each of them does. Pure: nothing is listed, read or removed here.

Rules add up: what one of them keeps stays, whatever the others say. Without any rule everything stays; a number of zero
is no rule, never the wish to delete all. Whatever the rules say, these stay: what has a name besides its position or is
pointed to, what is in use, and of each model what a training would go on from if it started now.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from math import isfinite

from preheat.errors import CheckpointConfigError
from preheat.runs.checkpoint import Checkpoint
from preheat.runs.order import newest_first
from preheat.runs.position import Position

#: Age in seconds from which nobody is believed to be at work on a checkpoint that is not complete.
FORGOTTEN = 3600.0


@dataclass(frozen=True)
class Retention:
    """What stays of each model of a run, and of each variant of its weights."""

    last: int = 0
    """So many of the newest."""

    best: int = 0
    """So many of the best by `metric`."""

    metric: str = ""
    """The metric; lower is better."""

    highest: bool = False
    """Higher is better."""

    every: str = ""
    """The first of every so many, such as E10 for ten epochs, U1000 or S100000: for good."""

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        if self.last < 0 or self.best < 0:
            raise CheckpointConfigError("retention: a number of checkpoints to keep is not negative")
        if bool(self.best) != bool(self.metric):
            raise CheckpointConfigError("retention: say how many of the best are kept, and by which metric")
        if self.every:
            period_of(self.every)

    @property
    def ruled(self) -> bool:
        """Whether there is any rule."""
        return bool(self.last or self.best or self.every)


@dataclass(frozen=True)
class Known:
    """What is known of checkpoints besides what a listing shows, each by its path."""

    pointed: Mapping[str, Collection[str]] = field(default_factory=dict)  # what points to it
    used: Mapping[str, str] = field(default_factory=dict)  # who uses it
    doubted: Collection[str] = ()  # processes began from them, and may have died of it
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # where its name does not tell
    now: float | None = None  # seconds since the epoch; None: what is not complete is left alone

    def metric(self, checkpoint: Checkpoint, name: str) -> float | None:
        """A checkpoint's value, if it is a number."""
        value = {**checkpoint.metrics, **self.metrics.get(checkpoint.path, {})}.get(name)
        return value if value is not None and isfinite(value) else None

    def good(self, checkpoint: Checkpoint) -> bool:
        """Whether a training can be expected to go on from it."""
        return not checkpoint.incomplete and checkpoint.path not in self.doubted


@dataclass(frozen=True)
class Ruling:
    """What becomes of a checkpoint. It goes when nothing keeps it."""

    checkpoint: Checkpoint
    reasons: tuple[str, ...]  # why it stays

    @property
    def stays(self) -> bool:
        """Whether it stays."""
        return bool(self.reasons)


def rule(checkpoints: Iterable[Checkpoint], retention: Retention, known: Known) -> list[Ruling]:
    """A ruling on each checkpoint, family by family, the newest first."""
    families: dict[tuple[str, ...], list[Checkpoint]] = {}
    for each in checkpoints:
        families.setdefault(_family(each), []).append(each)
    whole = _newest_of_all(families.values(), known)
    found = []
    for _, members in sorted(families.items()):
        family = newest_first(members)
        reasons = _reasons(family, retention, known)
        for each in family:
            said = [*reasons.get(each.path, ()), *_own_reasons(each, retention, known)]
            if each.path in whole:
                said.append("the newest at which all models are there")
            found.append(Ruling(each, tuple(said)))
    return found


def period_of(text: str) -> tuple[str, int]:
    """`E10` as what is counted and how many of it; raises CheckpointConfigError for anything else."""
    position = Position.parse(text)
    counts = [(name, n) for name, n in vars(position).items() if n is not None] if position else []
    if len(counts) != 1 or not counts[0][1]:
        raise CheckpointConfigError(
            f"{text!r:.40} is no period", remedy="Write E10 for ten epochs, U1000 for updates or S100000 for samples"
        )
    return counts[0]


def _family(checkpoint: Checkpoint) -> tuple[str, str, str, str]:
    return checkpoint.home, checkpoint.layout, checkpoint.model, checkpoint.info


def _reasons(family: Sequence[Checkpoint], retention: Retention, known: Known) -> dict[str, list[str]]:
    """Why checkpoints stay that are compared with others of the same model; the newest comes first."""
    able = [each for each in family if known.good(each) and not each.part]
    # What has a name stays whatever the rules say, and may be written anew by every save: it takes no other's place.
    good = [each for each in able if each.position] or able
    found: dict[str, list[str]] = {}

    def keep(those: Iterable[Checkpoint], why: str) -> None:
        for each in those:
            found.setdefault(each.path, []).append(why)

    keep(good[: retention.last], f"one of the last {retention.last}" if retention.last > 1 else "the last")
    keep(_best(good, retention, known), f"one of the best {retention.best} by {retention.metric}")
    keep(_first_of_each(good, retention.every), f"the first of every {retention.every}")
    keep(good[:1], "the last good one")
    keep([each for each in good if each.training][:1], "the last good one with training state")
    keep([each for each in good if each.training is not False][:1], "the last good one that may have training state")
    return found


def _own_reasons(checkpoint: Checkpoint, retention: Retention, known: Known) -> Iterator[str]:
    path = checkpoint.path
    if not retention.ruled:
        yield "no rule says what may go"
    yield from (f"{pointer} points to it" for pointer in sorted(known.pointed.get(path, ())))
    if checkpoint.tag and not checkpoint.position:
        yield f"it is called {checkpoint.tag}"
    if checkpoint.part:
        yield "it is a part of a model"
    if path in known.used:
        yield f"in use by {known.used[path]}"
    if checkpoint.incomplete and not _forgotten(checkpoint, known):
        yield f"not complete: {checkpoint.incomplete}"


def _forgotten(checkpoint: Checkpoint, known: Known) -> bool:
    """Whether it is what is left of one of ours; of other programs' files we do not know when they are at rest."""
    return checkpoint.layout == "preheat" and known.now is not None and known.now - checkpoint.modified > FORGOTTEN


def _best(good: Sequence[Checkpoint], retention: Retention, known: Known) -> list[Checkpoint]:
    valued = [(known.metric(each, retention.metric), each) for each in good] if retention.best else []
    ranked = [(value, each) for value, each in valued if value is not None]
    ranked.sort(key=lambda one: -one[0] if retention.highest else one[0])  # stable: of equals the newer
    return [each for _, each in ranked[: retention.best]]


def _first_of_each(good: Sequence[Checkpoint], every: str) -> list[Checkpoint]:
    """The oldest in each period: it stays that however often is pruned."""
    if not every:
        return []
    count, length = period_of(every)
    firsts: dict[int, Checkpoint] = {}
    for each in good:  # older ones replace newer ones
        number = getattr(each.position, count, None)
        if number is not None:
            firsts[number // length] = each
    return list(firsts.values())


def _newest_of_all(families: Iterable[Sequence[Checkpoint]], known: Known) -> set[str]:
    """Paths of the newest checkpoints that all models of a run have at one position: they make one training."""
    places: dict[tuple[str, str], dict[Position, dict[str, str]]] = {}
    models: dict[tuple[str, str], set[str]] = {}
    for each in chain.from_iterable(families):
        if each.position and known.good(each) and not each.part:
            place = each.home, each.info
            models.setdefault(place, set()).add(each.model)
            places.setdefault(place, {}).setdefault(each.position, {})[each.model] = each.path
    found: set[str] = set()
    for place, positions in places.items():
        shared = [where for where, paths in positions.items() if paths.keys() == models[place]]
        if len(models[place]) > 1 and shared:
            found |= set(positions[max(shared, key=lambda where: where.order)].values())
    return found
