"""The keys that begin with a prefix, a thousand of them with each request."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote_plus
from xml.etree import ElementTree

from preheat.blob import Patience
from preheat.errors import CheckpointError, CheckpointSourceError
from preheat.runs.listing import Entry, check_count
from preheat.sources.http_answer import Headers
from preheat.sources.http_document import HttpDocument
from preheat.sources.s3_service import Service, refused

if TYPE_CHECKING:
    from preheat.sources.s3 import S3Source

#: Keys of one answer; no service gives more.
PAGE = 1000

_RIGHTS = (
    "Let the pod's serviceAccountName grant s3:ListBucket beside s3:GetObject, or name a Secret whose credentials may "
    "in secretRef"
)


def list_keys(source: S3Source, prefix: str, service: Service, patience: Patience) -> Iterator[Entry]:
    """An entry for every key, with what follows the prefix as its path."""
    token, count = "", 0
    while True:
        answer = _Page(source, prefix, token, service, patience)
        page = read_page(answer.read(0, answer.size), prefix, answer.uri)
        count += len(page.entries)
        check_count(answer.uri, count)
        yield from page.entries
        token = page.token
        if not token:
            return


@dataclass(frozen=True)
class Page:
    """What one answer lists, and what to ask for the next one with; nothing when it is the last."""

    entries: tuple[Entry, ...]
    token: str


def read_page(content: bytes, prefix: str, uri: str) -> Page:
    """The page that an answer is; raises CheckpointSourceError for what is none."""
    try:
        if b"<!" in content:  # a listing declares nothing, and what is declared could grow
            raise ValueError
        document = ElementTree.fromstring(content)  # noqa: S314
        encoded = _text(document, "EncodingType") == "url"
        found = [_entry(each, prefix, encoded) for each in document.iterfind("{*}Contents")]
        more = _text(document, "IsTruncated") == "true"
        return Page(tuple(filter(None, found)), _text(document, "NextContinuationToken") if more else "")
    except (ElementTree.ParseError, ValueError, OverflowError, LookupError):  # the last, of an unknown encoding
        raise CheckpointSourceError(
            f"{uri}: the service does not answer a listing as S3 does", remedy="Check `endpoint`"
        ) from None


def _entry(contents: ElementTree.Element, prefix: str, encoded: bool) -> Entry | None:
    """None for a key that stands for a folder, or is not below the prefix."""
    facts = {each.tag.rpartition("}")[2]: each.text or "" for each in contents}
    key = unquote_plus(facts.get("Key", "")) if encoded else facts.get("Key", "")
    if not key.startswith(prefix) or key == prefix or key.endswith("/"):
        return None
    time = datetime.fromisoformat(facts["LastModified"]).timestamp() if facts.get("LastModified") else 0.0
    return Entry(key.removeprefix(prefix), int(facts.get("Size") or 0), time)


def _text(document: ElementTree.Element, name: str) -> str:
    return document.findtext(f"{{*}}{name}") or ""


class _Page(HttpDocument):
    """One answer to ListObjectsV2."""

    def __init__(self, source: S3Source, prefix: str, token: str, service: Service, patience: Patience) -> None:
        self._source = source
        self._service = service
        self._parameters: dict[str, Any] = {"Bucket": source.bucket, "Prefix": prefix, "MaxKeys": PAGE}
        self._parameters |= {"EncodingType": "url"}
        self._parameters |= {"ContinuationToken": token} if token else {}
        self._parameters |= {"RequestPayer": "requester"} if source.requester_pays else {}
        headers = {"x-amz-request-payer": "requester"} if source.requester_pays else {}
        uri = f"s3://{source.bucket}/{prefix}"
        super().__init__("", uri=uri, headers=headers, patience=patience, connections=service.connections)

    def locate(self) -> str:
        """A freshly signed URL."""
        return self._service.sign(self._source, "list_objects_v2", self._parameters)

    def name_version(self, headers: Headers, size: int) -> str:
        """None: what is listed is pinned when it is opened."""
        return ""

    def refuse(self, status: int, phrase: str, headers: Headers, body: bytes) -> CheckpointError:
        """The error that the service's own code stands for."""
        return refused(self._source, status, phrase, headers, body, _RIGHTS)
