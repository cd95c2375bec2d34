"""The last line of defence: what a loader knows to be a credential is blanked in what it says, whoever put it there.

The first line is that no message quotes a credential, a query of a URL, or what a server says in its own words.
"""

from __future__ import annotations

import logging
import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, unquote

from preheat.sources import SOURCES
from preheat.stage import CheckpointSource

#: Shorter ones may be part of ordinary words, and blanking those would tell what they are.
SHORTEST, SHORTEST_IN_QUERY = 8, 16
_BLANK = "***"
_QUERY = re.compile(r'https?://[^"\s?]*\?([^"\s]+)')


class Redaction:
    """Blanks the credentials of an environment in texts."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        known = [value for value in _credentials(environment) if len(value) >= SHORTEST]
        spelled = {each for value in known for each in (value, quote(value, safe=""), unquote(value))}
        longest_first = sorted(spelled, key=len, reverse=True)
        self._known = re.compile("|".join(map(re.escape, longest_first))) if longest_first else None

    def text(self, said: str) -> str:
        """The text without credentials."""
        return self._known.sub(_BLANK, said) if self._known else said

    def document(self, value: Any) -> Any:
        """The JSON value without credentials in its texts."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {key: self.document(each) for key, each in value.items()}
        return [self.document(each) for each in value] if isinstance(value, list) else value


class RedactingFormatter(logging.Formatter):
    """A formatter whose lines show no credential of an environment."""

    def __init__(self, redaction: Redaction, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._redaction = redaction

    def format(self, record: logging.LogRecord) -> str:
        """The line, traceback included."""
        return self._redaction.text(super().format(record))


def _credentials(environment: Mapping[str, str]) -> Iterator[str]:
    """What Secrets have put into the environment, and the queries of URLs, which may be signatures."""
    for source in SOURCES.values():
        if issubclass(source, CheckpointSource):
            yield from (environment.get(each.variable, "").strip() for each in source.secret_variables)
    user, password = (environment.get(f"PREHEAT_HTTP_{name}", "").strip() for name in ("USERNAME", "PASSWORD"))
    yield b64encode(f"{user}:{password}".encode()).decode()
    told = environment.get("PREHEAT_PIPELINE", "") + environment.get("PREHEAT_UPLOAD", "")
    for query in _QUERY.findall(told):
        values = (part.partition("=")[2] for part in query.split("&"))
        yield from (each for each in (query, *values) if len(each) >= SHORTEST_IN_QUERY)
