"""A Hub as Hugging Face's answers, on two origins: the API and small files on one, large files on the other.

A repository is its files by revision. Small files are redirected within the first origin; large ones to the second by
a signed URL that `expire` makes worthless, and the second keeps whether it was ever sent a token (`leaked`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import unquote

from sources.fault_server import FaultServer, _Handler

TOKEN = "hf_right"  # may read what is private
_CACHE = "/api/resolve-cache/models/"
LARGE = 1000  # bytes; git holds what is smaller


@dataclass
class Repo:
    """`commits` by hash, `revisions` by name; a gated or private one is for TOKEN alone."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    revisions: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def commit(self, files: dict[str, bytes], revision: str = "main") -> str:
        """A new commit that the revision then names."""
        found = hashlib.sha1(repr([len(self.commits), sorted(files)]).encode()).hexdigest()
        self.commits[found] = files
        self.revisions[revision] = found
        return found


class ContentServer(FaultServer):
    """Where the large files are; FaultServer's faults are for these."""

    def __init__(self) -> None:
        super().__init__()
        self.signature = 0
        self.leaked = False
        self._http.RequestHandlerClass = type("Handler", (_ContentHandler,), {"owner": self})


class _ContentHandler(_Handler):
    owner: ContentServer

    def do_GET(self) -> None:  # noqa: N802
        self.owner.leaked |= "Authorization" in self.headers
        if not self.path.endswith(f"?Signature={self.owner.signature}"):
            return self.send_error(403)
        super().do_GET()


class HubServer(FaultServer):
    def __init__(self, content: ContentServer) -> None:
        super().__init__()
        self.repos: dict[str, Repo] = {}
        self.content = content
        self.cached: dict[str, bytes] = {}  # small files by where they are redirected to
        self._http.RequestHandlerClass = type("Handler", (_HubHandler,), {"owner": self})

    def expire(self) -> None:
        """Make every signed URL of the past worthless."""
        self.content.signature += 1


class _HubHandler(_Handler):
    owner: HubServer

    def do_GET(self) -> None:  # noqa: N802
        path = self.path
        if path.startswith(_CACHE):
            return self._answer(self.owner.cached[path])
        if path.startswith("/api/models/"):
            name, _, revision = path.removeprefix("/api/models/").partition("/revision/")
        else:
            name, _, rest = path.removeprefix("/").partition("/resolve/")
            revision, _, file = rest.partition("/")
        repo = self.owner.repos.get(name)
        token = self.headers.get("Authorization")
        if token not in (None, f"Bearer {TOKEN}"):
            return self._refuse(401, "", "Invalid credentials in Authorization header")
        if repo is None or (repo.private and not token):
            return self._refuse(404 if token else 401, "RepoNotFound", "Repository not found")
        known = repo.revisions.get(unquote(revision), unquote(revision))
        if known not in repo.commits:
            return self._refuse(404, "RevisionNotFound", "Invalid rev id")
        if path.startswith("/api/"):
            siblings = [{"rfilename": file} for file in repo.commits[known]]
            return self._answer(json.dumps({"id": name, "sha": known, "siblings": siblings}).encode())
        if repo.gated and not token:
            return self._refuse(401, "GatedRepo", "Access to model is restricted")
        content = repo.commits[known].get(unquote(file))
        if content is None:
            return self._refuse(404, "EntryNotFound", "Entry not found")
        self._redirect(known, content)

    def _redirect(self, commit: str, content: bytes) -> None:
        digest = hashlib.sha256(content).hexdigest()
        if len(content) < LARGE:
            location = f"{_CACHE}{commit}/{digest}?etag=%22{digest}%22"
            self.owner.cached[location] = content
            self.send_response(307)
        else:
            self.owner.content.serve(f"/xet/{digest}", content)
            location = f"{self.owner.content.origin}/xet/{digest}?Signature={self.owner.content.signature}"
            self.send_response(302)
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Linked-ETag", f'"{digest}"')
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _answer(self, body: bytes) -> None:
        """As a server that knows no ranges and does not count before it speaks."""
        self.owner.requests.append((self.path, dict(self.headers)))  # type: ignore[arg-type]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body))

    def _refuse(self, status: int, code: str, message: str) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", message)
        self.send_header("Content-Length", "0")
        self.end_headers()


@contextmanager
def running() -> Iterator[HubServer]:
    """Both origins."""
    with ContentServer().running() as content:
        assert isinstance(content, ContentServer)
        with HubServer(content).running() as hub:
            assert isinstance(hub, HubServer)
            yield hub
