"""The entries of a JSON object one by one, from text that comes in pieces: a header of 100,000 tensors is never whole.

As strict as Python's own reader is of the whole text; both see the same in it or both refuse it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

Found = TypeVar("Found")

_SPACE = re.compile(r"[ \t\n\r]*")


def entries(pieces: Iterable[bytes], decoder: json.JSONDecoder) -> Iterator[tuple[str, Any]]:
    """Names and values as they stand in the object, twice where they are there twice; raises ValueError for no JSON."""
    text = _Text(pieces)
    more = text.take(_opened)
    while more:
        name, value, more = text.take(lambda text, at: _entry(text, at, decoder))
        yield name, value
    text.end()


def _opened(text: str, at: int) -> tuple[bool, int]:
    """Whether the object has an entry; where the first one begins, or what is behind it."""
    if text[at : at + 1] != "{":
        raise ValueError("it is no object")
    at = _behind_space(text, at + 1)
    if at == len(text):
        raise ValueError("it ends too early")
    return (False, at + 1) if text[at] == "}" else (True, at)


def _entry(text: str, at: int, decoder: json.JSONDecoder) -> tuple[tuple[str, Any, bool], int]:
    """Name, value, and whether another one follows."""
    name, at = decoder.raw_decode(text, _behind_space(text, at))
    if not isinstance(name, str):
        raise ValueError("a name is no text")
    at = _behind_space(text, at)
    if text[at : at + 1] != ":":
        raise ValueError("a name has no value")
    value, at = decoder.raw_decode(text, _behind_space(text, at + 1))
    at = _behind_space(text, at)
    if text[at : at + 1] not in (",", "}"):
        raise ValueError("a value is followed by something else")
    return (name, value, text[at] == ","), at + 1


def _behind_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


class _Text:
    """What of the text is not understood yet."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._text, self._at = "", 0

    def take(self, step: Callable[[str, int], tuple[Found, int]]) -> Found:
        """What `step` makes of the text; where it makes no sense, once more with more of it."""
        while True:
            try:
                found, self._at = step(self._text, self._at)
                return found
            except ValueError:
                if not self._grow():
                    raise

    def end(self) -> None:
        """Raise ValueError when something but space is left."""
        while self._at == len(self._text) or _behind_space(self._text, self._at) == len(self._text):
            self._at = len(self._text)
            if not self._grow():
                return
        raise ValueError("more follows the object")

    def _grow(self) -> bool:
        piece = next(self._pieces, None)
        self._text, self._at = self._text[self._at :] + self._decoder.decode(piece or b"", piece is None), 0
        return piece is not None
