"""Targets that take what others say about a checkpoint: a bundle's manifest, a server's headers, a listing's names."""

from __future__ import annotations

import http.client
import io
import json
import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from claims import accepted, claim

from preheat.bundle.manifest import Manifest
from preheat.formats.training_state import opaque_in, parts_of, unspell_state
from preheat.index import Tensor
from preheat.runs import layouts
from preheat.runs.checkpoint import Pointer
from preheat.runs.listing import Entry
from preheat.runs.order import newest_first
from preheat.runs.selection import Selection, Wanted
from preheat.sources.http_answer import (
    Pin,
    check_encoding,
    check_part,
    content_length,
    content_range,
    refusal,
    retry_after,
)
from preheat.sources.http_connection import Target
from preheat.sources.s3_listing import read_page

URI = "https://example.org/model.safetensors"
HERE = Target("https", "example.org", 443, "/model.safetensors")


def manifest(data: bytes) -> None:
    """What is accepted as a manifest can be written again and is the same then."""
    found = accepted(lambda: Manifest.from_json(data))
    if found is not None:
        text = found.to_json()  # compared as text, where NaN equals NaN
        claim(Manifest.from_json(text).to_json() == text, "written again the manifest is another one")


def training_document(data: bytes, tensors: Mapping[str, Tensor] | None = None) -> None:
    """A bundle's state.json: a tree that can be walked, or one of the errors that its reader expects."""
    try:
        tree = unspell_state(json.loads(data), (tensors or {}).__getitem__)
    except (ValueError, TypeError, KeyError, RecursionError):
        return
    parts = parts_of(tree)
    claim(all(isinstance(state, Mapping) for state in parts.optimizers.values()), "an optimizer that is no mapping")
    list(opaque_in(tree))


def http_answer(data: bytes) -> None:
    """Status and headers, parsed by the client that parses them in earnest: lengths, ranges, pins, waits, redirects."""
    stream = io.BytesIO(data)
    try:
        status = int(stream.readline(16))
        headers = http.client.parse_headers(stream)
    except (ValueError, http.client.HTTPException):
        return
    pin = Pin.of(headers)
    found = content_range(headers)
    if accepted(lambda: check_part(URI, status, headers, (8, 16), 64, Pin('"a"', None)) or True):  # it returns nothing
        claim(status == 206 and found == (8, 16, 64) and content_length(headers) == 8, "another part is accepted")
    accepted(lambda: check_encoding(URI, headers))
    pin.version(64)
    pin.matches(headers)
    str(refusal(URI, status, headers.get("Reason") or ""))
    wait = retry_after(headers, 1_700_000_000.0)
    claim(wait is None or wait >= 0, f"a wait of {wait} s")
    _check_sendable(pin.condition())
    target = accepted(_redirect(headers.get("Location") or ""))
    if target is not None:
        _check_sendable({"Host": target.host}, target.path)


def s3_listing(data: bytes) -> None:
    """An answer to ListObjectsV2, and a run's checkpoints in it: the order of its keys is no matter."""
    page = accepted(lambda: read_page(data, "runs/", URI))
    if page is None:
        return
    found = layouts.find(page.entries)
    for checkpoint in found.checkpoints:
        claim(bool(checkpoint.files) and bool(checkpoint.name), "a checkpoint of nothing")
    orders = [[each.path for each in newest_first(order)] for order in (found.checkpoints, found.checkpoints[::-1])]
    claim(orders[0] == orders[1], "the order of the listing matters")
    for select in ("latest", "E1", "best.loss", "last"):
        accepted(partial(Selection.of, found, Wanted(select), URI, lambda pointer: pointer.tag))


def pointer(data: bytes) -> None:
    """A file that names a checkpoint."""
    for layout in ("preheat", "transformers"):
        place = Pointer(layout, Entry("a.json", len(data), 0), "best")
        accepted(partial(layouts.named_by, _Content(data), place))  # type: ignore[arg-type]


class _Content:
    """A listing of one file."""

    uri = "/"

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, path: str) -> bytes:
        """The file."""
        return self._data


def _redirect(location: str) -> Callable[[], Target]:
    return lambda: HERE.redirect(location)


def _check_sendable(headers: dict[str, str], path: str = "/") -> None:
    """The client that will send the next request takes these without complaint."""
    request = http.client.HTTPConnection("example.org")
    request.putrequest("GET", path)
    for name, value in headers.items():
        request.putheader(name, value)


def mutate_json(data: bytes, max_size: int, mutate: Callable[[bytes, int], bytes], choice: random.Random) -> bytes:
    """Put something odd, or another part of the document, in a place of it; now and then change its bytes."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        document = None
    places = list(_places(document))
    if not places or choice.random() < 0.2:
        return bytes(mutate(data, max_size))
    container, key = choice.choice(places)
    if choice.random() < 0.1:
        del container[key]
    else:
        other, place = choice.choice(places)
        container[key] = json.loads(choice.choice(_ODD) if choice.random() < 0.7 else json.dumps(other[place]))
    return json.dumps(document).encode()[:max_size]


_ODD = (
    "null",
    "true",
    "0",
    "-1",
    "1e999",
    "NaN",
    "1.5",
    str(1 << 70),
    '""',
    '"a"',
    '"\\ud800"',
    "[]",
    "[1]",
    "{}",
    '{"a": {}}',
)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    pending = [document]
    while pending:
        container = pending.pop()
        keys = (
            list(container)
            if isinstance(container, dict)
            else range(len(container))
            if isinstance(container, list)
            else ()
        )
        for key in keys:
            yield container, key
            pending.append(container[key])
