"""The files beside a URL."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from preheat.blob import Patience
from preheat.sources.http_blob import HttpBlob
from preheat.sources.http_connection import Connections


class HttpFolder:
    """What is beside a URL. A query is sent for every file: it may be a signature for all of them."""

    def __init__(
        self, url: str, query: str, headers: Mapping[str, str], patience: Patience, authorities: str | None = None
    ) -> None:
        self.uri = url
        self._query = query
        self._headers = headers
        self._patience = patience
        self._connections = Connections(authorities)

    def names(self) -> None:
        """Nothing: HTTP has no listing."""

    def open(self, name: str) -> HttpBlob:
        """Ask for size and version of a file."""
        url = self.uri + quote(name, safe="/%:=&~+!$,;'@()*")
        return HttpBlob(
            url + self._query, uri=url, headers=self._headers, patience=self._patience, connections=self._connections
        )
