"""The stack machine that a pickle is a program for: it can name things, and do nothing with the names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from preheat.errors import CheckpointLoadError, TruncatedError
from preheat.formats.inert.memo import WORTH_IT, asked_for
from preheat.formats.inert.values import Global, Node

#: What calls of a name mean: functions of Preheat's own. They take constant time, for a pickle repeats them cheaply.
Constructors = Mapping[Global, Callable[..., Any]]

#: Gives a program's bytes again, from the first on, with at least so many of them where there are more.
More = Callable[[int], bytes]

_RENAMED = {"__builtin__": "builtins", "copy_reg": "copyreg"}  # protocols 0-2 write Python 2's names

# Not what keeps anybody safe: no call is ever made. A file with such a call is hostile; its owner should hear of it.
_RUNS_CODE = frozenset(
    ["io.open", *(f"builtins.{name}" for name in ("eval", "exec", "compile", "open", "__import__", "breakpoint"))]
)
_RUNS_CODE_MODULES = frozenset(
    ("os", "posix", "nt", "subprocess", "pty", "runpy", "importlib", "socket", "shutil", "ctypes", "webbrowser")
)


@dataclass(frozen=True)
class Pickle:
    """What a pickle describes: its value, the byte after its end, and every global that no constructor interpreted."""

    value: Any
    stop: int
    opaque: frozenset[Global]


class Machine:
    """The stack machine that a pickle is a program for."""

    __slots__ = (
        "asked", "at", "constructors", "counted", "data", "globals", "marks", "memo", "more", "persistent", "stack"
    )  # fmt: skip

    def __init__(
        self, data: bytes, constructors: Constructors, persistent: Callable[[Any], Any], start: int, more: More | None
    ) -> None:
        self.data = data
        self.more = more
        self.at = start
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}
        self.asked = asked_for(data, start) if len(data) >= WORTH_IT and more is None else None
        self.counted = 0
        self.globals: dict[tuple[str, str], Global] = {}
        self.constructors = constructors
        self.persistent = persistent

    def remember(self, key: int) -> None:
        """Keep the value on top of the stack for those who will ask for it by number."""
        value = self.stack[-1]
        if self.asked is None or key in self.asked:
            self.memo[key] = value

    def count(self) -> None:
        """Remember it by the next number."""
        self.remember(len(self.memo) if self.asked is None else self.counted)
        self.counted += 1

    def reaches(self, stop: int) -> bool:
        """Whether the program has bytes up to `stop`, after more of it was asked for."""
        if stop > len(self.data) and self.more:
            self.data = self.more(stop)
        return stop <= len(self.data)

    def take(self, count: int) -> bytes:
        start = self.at
        self.at = stop = start + count
        if stop > len(self.data) and not self.reaches(stop):
            raise TruncatedError(
                f"the pickle ends at byte {len(self.data)}; bytes {start}...{stop} are missing from it"
            )
        return self.data[start:stop]

    def number(self, width: int) -> int:
        return int.from_bytes(self.take(width), "little")

    def line(self) -> bytes:
        stop = self.data.find(b"\n", self.at)
        while stop < 0 and self.reaches(len(self.data) + 1):
            stop = self.data.find(b"\n", self.at)
        if stop < 0:
            raise TruncatedError(f"the pickle ends at byte {len(self.data)}, inside a line that begins at {self.at}")
        start, self.at = self.at, stop + 1
        return self.data[start:stop]

    def since_mark(self) -> list[Any]:
        items = self.stack
        self.stack = self.marks.pop()
        return items

    def global_named(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("a global needs two strings")
        module = _RENAMED.get(module, module)
        return self.globals.setdefault((module, name), Global(module, name))

    def call(self, callee: Any, args: Any) -> Any:
        """What calling `callee` stands for."""
        if not isinstance(args, tuple):
            raise TypeError("the arguments of a call are not a tuple")
        if isinstance(callee, Node):
            return Node(callee, args)
        if not isinstance(callee, Global):
            raise TypeError(f"a {type(callee).__name__} is called")
        construct = self.constructors.get(callee)
        if construct:
            return construct(*args)
        refuse_code(callee)
        return Node(callee, args)

    def finish(self) -> Pickle:
        if len(self.stack) != 1 or self.marks:
            raise ValueError(f"{len(self.stack)} values are left at its end")
        return Pickle(self.stack[0], self.at, frozenset(self.globals.values()) - self.constructors.keys())


def refuse_code(callee: Global) -> None:
    """Raise CheckpointLoadError for a call that has no purpose but to run code."""
    if callee.module.partition(".")[0] in _RUNS_CODE_MODULES or str(callee) in _RUNS_CODE:
        raise CheckpointLoadError(
            f"the checkpoint's pickle calls {callee}: it would run code where it is unpickled. Preheat did not run it",
            remedy="Do not load this file with torch.load or pickle, and find out who wrote it",
        )
