"""What becomes of a legacy configuration: a resource whose values know where they come from, and what is left to say.

No key that is about checkpoints vanishes: it is in the resource, or in a remark with the reason.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from preheat.construction import camel_case
from preheat.migrate.choices import Choice
from preheat.migrate.places import Answers, claimed, own_place, place
from preheat.migrate.settings import Key, Settings
from preheat.migrate.traced import Remark, Traced, some, traces, untraced
from preheat.sources import SOURCES
from preheat.strategies import STRATEGIES

_STRATEGIES = frozenset(map(camel_case, STRATEGIES))
_SOURCES = frozenset(map(camel_case, SOURCES))
#: The key of a stage that only a training process can build.
IN_PROCESS = "_target_"

_SPEAKS_OF_CHECKPOINTS = re.compile(
    r"checkpoint|ckpt|pretrain|resum|warm_?start|weights_only|transfer_learning|freez|frozen|lora|initializer|"
    r"keep_last",
    re.IGNORECASE,
)
#: Keys that have the words and another subject.
_OTHERS = re.compile(r"gradient_checkpointing|enable_checkpointing_gradients|activation_checkpoint", re.IGNORECASE)

_OFF = "off, so there is nothing to write"
_UNUSED = "has no effect beside the other settings, so it is left out; it would become: "
_INTERPOLATED = (
    "holds ${...} that could not be resolved here and stands in the resource as it is: give it a value, as in "
    "`preheat migrate CONFIG KEY=VALUE`, with preheat[hydra] installed"
)
_CREDENTIAL = (
    "held a credential, which is not repeated: put it into a Secret, name that with `secretRef`, and take it out of "
    "the file"
)
_UNKNOWN = "not known here, though it looks as if it were about checkpoints: compare it with the guide's table"


@dataclass
class Draft:
    """What a system's rules make of its settings."""

    answers: Answers
    stages: list[Any] = field(default_factory=list)
    resume: Any = None
    upload: Any = None
    settings: dict[str, Any] = field(default_factory=dict)  # of the spec, beside its stages
    remarks: list[Remark] = field(default_factory=list)
    name: str = ""
    choice: Choice | None = None  # by which rule the legacy system finds its checkpoint
    settled: set[str] = field(default_factory=set)  # keys of which, and of all below them, nothing is left to say

    @property
    def has_strategy(self) -> bool:
        """Whether a stage loads already."""
        return any(name_of(stage) in _STRATEGIES for stage in self.stages)

    def place(self, location: Traced) -> Traced:
        """The source of a location; what a pod needs to read it becomes a remark."""
        source, remarks = place(location, self.answers)
        self.remarks += remarks
        return source

    def own_place(self, location: Traced) -> Traced:
        """The source of a folder that the training writes to."""
        source, remark = own_place(location)
        self.remarks.append(remark)
        return source

    def stage(self, name: str, parameters: Any, because: Traced) -> None:
        """Add a stage that is there because of a setting."""
        if name in _STRATEGIES and self.has_strategy:
            self.remark(f"would be a second strategy, {name}, and a model is loaded once: keep one of them", because)
        else:
            self.stages.append({name: because.made(parameters)})

    def remark(self, text: str, *because: Traced | None) -> None:
        """Say something about settings that are there; nothing where none is."""
        keys = tuple(dict.fromkeys(key for each in because if each for key in each.keys))
        if keys:
            self.remarks.append(Remark(keys, text))


@dataclass(frozen=True)
class System:
    """One of the systems that Preheat replaces."""

    name: str
    keys: tuple[Key, ...]
    """The table: every key that is about checkpoints, and what becomes of it."""

    signs: tuple[str, ...]
    """Keys that no other system has."""

    topics: tuple[str, ...]
    """Keys below which everything is about checkpoints, whether the table has it or not."""

    rules: Callable[[Settings, Draft], None]


@dataclass(frozen=True)
class Migration:
    """The outcome. `resource` is None where the configuration begins with random weights."""

    system: str
    name: str
    resource: dict[str, Any] | None
    stages: tuple[Any, ...]
    """Those of the pipeline, some of which may be for a training process alone."""

    remarks: tuple[Remark, ...]
    choice: Choice | None

    @property
    def document(self) -> dict[str, Any] | None:
        """The resource without its traces."""
        return None if self.resource is None else untraced(self.resource)


def migrated(system: System, settings: Settings, answers: Answers, unresolved: frozenset[str]) -> Migration:
    """Apply a system's rules, and account for every key that they did not use."""
    draft = Draft(answers)
    system.rules(settings, draft)
    name = draft.answers.name or _name(draft.name) or system.name
    resource = _resource(name, draft)
    written = {key for trace in traces([resource, draft.stages]) for key in trace.keys}
    draft.remarks += [Remark((key,), _INTERPOLATED) for key in sorted(unresolved & written)]
    draft.remarks += [Remark((key,), _CREDENTIAL) for key in sorted(settings.withheld - draft.settled)]
    spoken = {key for remark in draft.remarks for key in remark.keys}
    known = _Accounted(written, spoken | draft.settled)
    remarks = (*_merged(draft.remarks), *_the_rest(system, settings, known))
    return Migration(system.name, name, resource, tuple(draft.stages), remarks, draft.choice)


@dataclass(frozen=True)
class _Accounted:
    """Keys that are in the resource, and keys that are spoken of with all that is below them."""

    written: set[str]
    spoken: set[str]

    def __contains__(self, leaf: object) -> bool:
        above = (str(leaf)[: found.start()] for found in re.finditer(r"[.\[]", str(leaf)))
        return leaf in self.written or leaf in self.spoken or any(key in self.spoken for key in above)


def name_of(stage: Any) -> str:
    """By which name a stage of a draft is known, or `_target_`."""
    inner = stage.value if isinstance(stage, Traced) else stage
    return str(next(iter(inner)))


def _resource(name: str, draft: Draft) -> dict[str, Any] | None:
    stages = [stage for stage in draft.stages if name_of(stage) != IN_PROCESS]
    if not stages or name_of(stages[0]) not in _SOURCES:
        return None
    spec = some(resume=draft.resume, stages=stages, upload=draft.upload, volume=claimed(draft.answers))
    return {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "CheckpointPipeline",
        "metadata": {"name": name},
        "spec": {**spec, **draft.settings},
    }


def _name(text: str) -> str:
    """A text as a resource's name, which pods put into a label."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:63].strip("-")


def _the_rest(system: System, settings: Settings, known: _Accounted) -> Iterator[Remark]:
    """One remark for all keys that are off, and one for each reason why others are not in the resource."""
    off, reasons = [], dict[str, list[str]]()
    for leaf, value in settings.leaves():
        key = next((key for key in system.keys if key.covers(leaf)), None)
        if leaf in known or not (key or _about_checkpoints(leaf, system.topics)):
            continue
        if settings[leaf] is None or value is False:
            off.append(leaf)
        elif key is None:
            reasons.setdefault(_UNKNOWN, []).append(leaf)
        else:
            reasons.setdefault(key.advice or _UNUSED + key.becomes, []).append(leaf)
    yield from (Remark(tuple(keys), reason) for reason, keys in reasons.items())
    if off:
        yield Remark(tuple(off), _OFF)


def _about_checkpoints(leaf: str, topics: Iterable[str]) -> bool:
    if any(leaf.startswith(topic) for topic in topics):
        return True
    return bool(_SPEAKS_OF_CHECKPOINTS.search(leaf)) and not _OTHERS.search(leaf)


def _merged(remarks: Iterable[Remark]) -> Iterator[Remark]:
    """Remarks of the same words said once."""
    keys: dict[str, dict[str, None]] = {}
    for remark in remarks:
        keys.setdefault(remark.text, {}).update(dict.fromkeys(remark.keys))
    return (Remark(tuple(each), text) for text, each in keys.items())
