"""What a server's answer to a ranged request means: pure functions of status and headers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import Protocol

from preheat.errors import (
    AccessDeniedError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    SourceChangedError,
    TruncatedError,
)

#: Worth another attempt: the server is busy, restarting, or its upstream is.
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
#: Of these, what a server answers that would serve fewer connections.
BUSY = frozenset({429, 503})
REDIRECTS = frozenset({301, 302, 303, 307, 308})

MAX_DIGITS = 19  # of a position; Python refuses to read numbers of thousands of digits
_CONTENT_RANGE = re.compile(rf"^bytes (\d{{1,{MAX_DIGITS}}})-(\d{{1,{MAX_DIGITS}}})/(\d{{1,{MAX_DIGITS}}})$")


class Headers(Protocol):
    """The headers of an answer; names in any case."""

    def get(self, name: str) -> str | None:
        """The header's value."""
        ...


@dataclass(frozen=True)
class Pin:
    """What tells one version of an object from the next."""

    etag: str | None
    modified: str | None

    @classmethod
    def of(cls, headers: Headers) -> Pin:
        """The pin that an answer's headers give."""
        return cls(headers.get("ETag"), headers.get("Last-Modified"))

    @property
    def strong(self) -> bool:
        """Whether the ETag may stand in If-Match."""
        return bool(self.etag) and not str(self.etag).startswith("W/")

    def condition(self) -> dict[str, str]:
        """The request header that makes the server refuse another version."""
        # A date would not do: servers that compare fractions of a second refuse the very one that they gave.
        return {"If-Match": str(self.etag)} if self.strong else {}

    def version(self, size: int) -> str | None:
        """How the version is spelled, None when the server gives nothing to tell it by."""
        if self.etag:
            return f"etag:{self.etag}"
        return f"modified:{self.modified}-{size}" if self.modified else None

    def matches(self, headers: Headers) -> bool:
        """Whether an answer says that it is about the same version; silence counts only after an If-Match."""
        found = Pin.of(headers)
        if self.etag and found.etag:
            return self.etag == found.etag
        if self.modified and found.modified:
            return self.modified == found.modified
        return self.strong


def content_range(headers: Headers) -> tuple[int, int, int] | None:
    """(start, stop, size) of a Content-Range; None when there is none, or one that is not a single range."""
    found = _CONTENT_RANGE.match(headers.get("Content-Range") or "")
    return (int(found[1]), int(found[2]) + 1, int(found[3])) if found else None


def content_length(headers: Headers) -> int | None:
    """Bytes of the body; None when the server does not say."""
    text = headers.get("Content-Length") or ""
    known = text.isdecimal() and len(text) <= MAX_DIGITS and not headers.get("Transfer-Encoding")
    return int(text) if known else None


def check_encoding(uri: str, headers: Headers) -> None:
    """Raise CheckpointSourceError for a body that is not the object's own bytes."""
    encoding = (headers.get("Content-Encoding") or "identity").lower()
    if encoding not in ("identity", "aws-chunked", ""):
        raise CheckpointSourceError(
            f"{uri} is served with Content-Encoding {encoding!r:.40}, so byte ranges do not fit",
            remedy="Turn compression off for this file on the server",
        )


def check_part(uri: str, status: int, headers: Headers, part: tuple[int, int], size: int, pin: Pin) -> None:
    """Raise unless the answer carries bytes `part` = (start, stop) of the pinned version, and nothing else."""
    start, stop = part
    check_encoding(uri, headers)
    found = content_range(headers) if status == 206 else (0, content_length(headers) or -1, content_length(headers))
    if not pin.matches(headers) or (found and found[2] is not None and found[2] != size):
        raise changed(uri)
    if status == 200 and part != (0, size):
        raise no_ranges(uri)
    if found is None or found[:2] != part or content_length(headers) != stop - start:
        raise CheckpointSourceError(
            f"{uri}: asked for bytes {start}...{stop}, the server answered with "
            f"Content-Range {headers.get('Content-Range')!r:.80}",
            remedy="A proxy or server on the way mishandles byte ranges; go around it",
        )


def changed(uri: str) -> SourceChangedError:
    """The object is another one by now."""
    return SourceChangedError(
        f"{uri} was replaced while it was read", remedy="Run again; nothing of the mixture was published"
    )


def no_ranges(uri: str) -> CheckpointSourceError:
    """The server sends the whole file whatever it is asked for."""
    return CheckpointSourceError(
        f"the server of {uri} does not serve byte ranges", remedy="Serve the file with nginx or S3, or download it"
    )


def words_for(status: int) -> str:
    """What a status means in RFC 9110's words: the server's own might repeat what it was sent, credentials too."""
    return responses.get(status, "(unknown)")


def refusal(uri: str, status: int, phrase: str) -> CheckpointError:
    """The error for a status that is no success and that trying again does not mend."""
    if status in (401, 403, 407):
        return AccessDeniedError(
            f"{uri}: the server answered {status} {phrase}",
            remedy="Name a Secret with `token`, or `username` and `password`, in secretRef",
        )
    if status in (404, 410):
        return CheckpointNotFoundError(f"{uri}: the server answered {status} {phrase}", remedy="Check the URL")
    if status == 412:
        return changed(uri)
    if status == 416:
        return TruncatedError(
            f"{uri}: the server has no such bytes; the object is empty or became shorter",
            remedy="Upload it again, or run again when its writer is done",
        )
    return CheckpointSourceError(f"{uri}: the server answered {status} {phrase}")


def retry_after(headers: Headers, now: float) -> float | None:
    """Seconds that the server asks to wait; `now` is the time of day in seconds."""
    text = (headers.get("Retry-After") or "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now) if text else None
    except (ValueError, OverflowError):  # the second of a year that has too many digits
        return None
