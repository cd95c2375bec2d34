"""Names of checkpoints in Noether's grammar: `{model}[_{info}]_cp={tag}`, which Preheat gives what it saves.

Version 1.0 of Noether put the info behind the tag, `{model}_cp={tag}[_{info}]`; both are read, the first is written.
An info is `key=value` and says which variant of the weights it is, such as averaged ones: `ema=0.9999`, in Noether's
document `ema_factor=0.9999`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from preheat.errors import CheckpointConfigError
from preheat.runs.position import Position

MARK = "_cp="
LATEST, LAST, BEST = "latest", "last", "best"
#: What Noether appends to the position of a checkpoint that a signal made it save.
INTERRUPT = ".signal_interrupt"

# Keys may hold underscores as models and metrics do, so those that are known are looked for first.
_KNOWN_INFO = re.compile(r"_(?=(?:ema_factor|ema)=)")
_ANY_INFO = re.compile(r"_(?=[A-Za-z0-9-]+=)")
_BEST = re.compile(rf"^(?:{BEST}|best_model)\.(.+)$")
_FORBIDDEN = re.compile(r"[/\\\x00-\x1f]|^\.")


@dataclass(frozen=True)
class CheckpointName:
    """What a name says: whose weights, which variant of them, and when or as what they were saved."""

    model: str
    tag: str  # a position, latest, last, best.<metric>, or any other
    info: str = ""

    @classmethod
    def parse(cls, stem: str) -> CheckpointName | None:
        """The parts of a name without its suffix, whichever order it is in; None for a name of another grammar."""
        front, mark, back = stem.partition(MARK)
        if not mark or not front or not back:
            return None
        model, info = _split_info(front)
        if info:
            return cls(model, back, info)
        return cls(front, *_split_tag(back))

    @property
    def position(self) -> Position | None:
        """Where the training was, if the tag says so."""
        return Position.parse(self.tag.removesuffix(INTERRUPT))

    @property
    def interrupted(self) -> bool:
        """Whether a signal made the training save it, in the middle of whatever it did."""
        return self.tag.endswith(INTERRUPT) and self.position is not None

    def __str__(self) -> str:
        return f"{self.model}{'_' if self.info else ''}{self.info}{MARK}{self.tag}"


def checked_name(model: str, tag: str, info: str = "") -> CheckpointName:
    """A name to save under; raises CheckpointConfigError unless it would be read back as it is."""
    name = CheckpointName(model, tag, info)
    if _FORBIDDEN.search(str(name)) or CheckpointName.parse(str(name)) != name:
        raise CheckpointConfigError(
            f"{str(name)!r:.200} cannot be the name of a checkpoint: it would not be read back as model {model!r:.80}, "
            f"info {info!r:.80} and tag {tag!r:.80}",
            remedy=f"Give the model a name without {MARK!r}, '=' and slashes, and info as key=value",
        )
    return name


def same_info(one: str, other: str) -> bool:
    """Whether two infos mean the same variant: `ema_factor=` is `ema=`, and numbers are compared as numbers."""
    return _canonical(one) == _canonical(other)


def metric_of(tag: str) -> str | None:
    """The metric of `best.<metric>` or `best_model.<metric>`, with dots for slashes; None for another tag."""
    found = _BEST.match(tag.replace("/", "."))
    return found[1] if found else None


def _split_info(front: str) -> tuple[str, str]:
    for pattern in (_KNOWN_INFO, _ANY_INFO):
        if (found := pattern.search(front)) and found.start():
            return front[: found.start()], front[found.end() :]
    return front, ""


def _split_tag(back: str) -> tuple[str, str]:
    """The tag and the info behind it."""
    position, rest = Position.split(back)
    if position and rest.startswith("_") and "=" in rest:
        return back[: -len(rest)], rest[1:]
    return _split_info(back)


def _canonical(info: str) -> tuple[str, str | float]:
    key, _, value = info.partition("=")
    try:
        return "ema" if key == "ema_factor" else key, float(value)
    except ValueError:
        return key, value
