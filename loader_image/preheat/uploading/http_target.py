"""A web server that files are PUT to, with or without WebDAV.

HTTP has no checksum that servers compute, so what was sent is read back and compared; `verify: size` asks for less.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from urllib.parse import quote

from preheat.blob import Patience
from preheat.errors import CheckpointNotFoundError, CheckpointValidationError
from preheat.sources.http import HTTPSource
from preheat.sources.http_answer import content_length, refusal
from preheat.sources.http_connection import Connections
from preheat.sources.http_folder import HttpFolder
from preheat.uploading.content import Content, Passed
from preheat.uploading.reading_back import crc64_of
from preheat.uploading.sending import Reply, Sender, Stretch, Text, full, paced
from preheat.uploading.target import Verify

#: What WebDAV says of a file in a collection that is not there.
_NO_COLLECTION = (404, 409)


class HttpTarget:
    """The paths below a URL; a query is sent for every file, for it may be a signature for all of them."""

    def __init__(self, source: HTTPSource, patience: Patience, verify: Verify) -> None:
        where, mark, query = source.url.partition("?")
        self._url = where if where.endswith("/") else f"{where}/"
        self._query = mark + query
        self.uri = self._url
        self._patience = patience
        self._verify = verify
        self._headers: Mapping[str, str] = source.authorization()
        self._authorities = source.ca_bundle
        self._sender = Sender(self.uri, Connections(source.ca_bundle), patience)

    def put(self, content: Content, name: str, advance: Passed) -> bool:
        """Send the file in one request, unless one with the same bytes is there."""
        if self._holds(content, name):
            advance(content.size)
            return False
        _, passed = paced(advance)
        self._check(name, self._put(name, Stretch(content, 0, content.size), passed))
        content.check()
        if not self._holds(content, name):
            raise CheckpointValidationError(
                f"{self.uri}{name} was sent and is not there as it was sent", remedy="Check the server's log"
            )
        return True

    def read(self, name: str) -> bytes | None:
        """A document; None when it is not there."""
        reply = self._ask("GET", name)
        return None if reply.status in (404, 410) else self._check(name, reply).body

    def write(self, name: str, document: bytes) -> None:
        """Replace a document."""
        self._check(name, self._put(name, Text(document), lambda count: None))

    def remove(self, name: str) -> None:
        """Remove a file."""
        reply = self._ask("DELETE", name)
        if reply.status not in (404, 410):
            self._check(name, reply)

    def close(self) -> None:
        """Close every connection."""
        self._sender.close()

    def _holds(self, content: Content, name: str) -> bool:
        reply = self._ask("HEAD", name)
        if not reply.good or content_length(reply.headers) != content.size:
            return False
        return self._verify == "size" or self._reads_back(content, name)

    def _put(self, name: str, body: Stretch | Text, advance: Passed) -> Reply:
        reply = self._ask("PUT", name, body, advance)
        if reply.status in _NO_COLLECTION and self._make_collections(name):
            advance(-body.size)
            reply = self._ask("PUT", name, body, advance)
        return reply

    def _make_collections(self, name: str) -> bool:
        """Make the folders of a name, where the server is one of WebDAV."""
        steps = name.split("/")[:-1]
        made = [self._ask("MKCOL", "/".join(steps[: count + 1]) + "/").status for count in range(len(steps))]
        return 201 in made

    def _ask(
        self, method: str, name: str, body: Stretch | Text | None = None, advance: Passed = lambda count: None
    ) -> Reply:
        url = self._url + quote(name, safe="/%:=&~+!$,;'@()*") + self._query
        return self._sender.ask(method, lambda: (url, self._headers), body, advance=advance)

    def _check(self, name: str, reply: Reply) -> Reply:
        if reply.status in (413, 507):
            raise full(self.uri, reply.status)
        if not reply.good:
            raise refusal(self.uri + name, reply.status, reply.phrase)
        return reply

    def _reads_back(self, content: Content, name: str) -> bool:
        folder = HttpFolder(self._url, self._query, self._headers, self._patience, self._authorities)
        try:
            with closing(folder.open(name)) as blob:
                return crc64_of(blob) == content.crc64(0, content.size).hexdigest()
        except CheckpointNotFoundError:
            return False
