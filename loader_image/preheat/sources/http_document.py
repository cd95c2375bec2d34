"""A document behind a URL that is read at once: what an API says, or a small text that is not served by ranges."""

from __future__ import annotations

from preheat.errors import CheckpointSourceError, TruncatedError
from preheat.sources.attempts import Attempts, Interrupted
from preheat.sources.http_answer import Pin, check_encoding, content_length
from preheat.sources.http_blob import HttpBlob, Kept
from preheat.sources.http_faults import faults

LIMIT = 64 << 20  # bytes; it is held in memory


class HttpDocument(HttpBlob):
    """All of a document, from one request; reads of it need no other."""

    def _discover(self) -> tuple[int, Pin, Kept]:
        attempts = Attempts(self.uri, self._patience, self._exchanges.closed)
        while True:
            try:
                return self._whole()
            except Interrupted as fault:
                attempts.again(fault)

    def _whole(self) -> tuple[int, Pin, Kept]:
        with self._exchanges.exchange({}) as answer, faults(self.uri):
            check_encoding(self.uri, answer.headers)
            content = answer.read(LIMIT + 1)
            if len(content) > LIMIT:
                raise CheckpointSourceError(f"{self.uri} is larger than {LIMIT:,} bytes, which no such document is")
            answer.read()  # of nothing: marks the connection as free
            self.fetched += len(content)
            if len(content) < (content_length(answer.headers) or 0):
                raise Interrupted(
                    TruncatedError(f"{self.uri}: the server closed the connection at byte {len(content)}")
                )
            self.version = self.name_version(answer.headers, len(content))
            return len(content), Pin.of(answer.headers), Kept(0, content)
