"""Files of one commit of a repository on the Hugging Face Hub.

Large files are redirected to another host by a signed URL, which expires and is then asked for again; the token stays
with the Hub. Small ones are text in git, which the Hub need not serve by ranges: an index comes whole.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING
from urllib.parse import quote

from preheat.blob import Blob, Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
)
from preheat.sources.http_answer import Headers, refusal
from preheat.sources.http_blob import HttpBlob
from preheat.sources.http_connection import Connections
from preheat.sources.http_document import HttpDocument

if TYPE_CHECKING:
    from preheat.sources.hugging_face import HuggingFaceSource

_PATTERN = re.compile(r"[*?[]")
_COMMIT = re.compile(r"^[0-9a-f]{7,64}$")
_NAME_A_SECRET = "name a Secret with the key HF_TOKEN in secretRef"  # noqa: S105 - says so, and is none


class HubFolder:
    """One folder of a repository, at the commit that the revision names when this is made; `name` is wanted of it."""

    def __init__(self, source: HuggingFaceSource, headers: Mapping[str, str], patience: Patience) -> None:
        self.uri = f"hf://{source.repo}@{source.revision}/"
        self.source = source
        self.prefix = ""
        self.headers = headers
        self.patience = patience
        self.connections = Connections(source.ca_bundle)
        self.commit = ""
        self.commit, self._files = self._resolve()
        folder, slash, self.name = self._one_of(source.file or "").rpartition("/")
        self.prefix = folder + slash
        self.uri += self.prefix

    def names(self) -> frozenset[str] | None:
        """Names of the files right in it; None when the Hub did not tell."""
        below = (file.removeprefix(self.prefix) for file in self._files if file.startswith(self.prefix))
        return frozenset(name for name in below if "/" not in name) if self._files else None

    def open(self, name: str) -> Blob:
        """Ask for the size of a file."""
        kind = _HubText if name.endswith(".json") else _HubFile
        return kind(self, f"{self.source.repo}/resolve/{self.commit}/{quote(self.prefix + name)}", name)

    def _one_of(self, file: str) -> str:
        """The one file, or folder, that a pattern matches; what is no pattern, or a name that is there, is itself."""
        if file in self._files or not _PATTERN.search(file):
            return file
        matching = sorted({name for name in _candidates(self._files, file.endswith("/")) if _matches(name, file)})
        if len(matching) == 1:
            return matching[0]
        commit = f"{self.source.repo} at commit {self.commit[:12]}"
        if not matching:
            raise CheckpointNotFoundError(f"no file of {commit} matches {file!r}", remedy="Check `file`")
        shown = ", ".join(matching[:8]) + (" ..." if len(matching) > 8 else "")
        raise CheckpointConfigError(
            f"{len(matching)} files of {commit} match {file!r}: {shown}",
            remedy="Narrow `file`; of shards name the index",
        )

    def _resolve(self) -> tuple[str, tuple[str, ...]]:
        answer = _HubText(self, f"api/models/{self.source.repo}/revision/{quote(self.source.revision, safe='')}", "")
        try:
            said = json.loads(answer.read(0, answer.size))
            commit, files = str(said["sha"]), tuple(str(each["rfilename"]) for each in said.get("siblings") or ())
        except (ValueError, TypeError, KeyError, RecursionError):
            commit, files = "", ()
        finally:
            answer.close()  # its connection too: a folder without a checkpoint has no blob that would close it
        if not _COMMIT.match(commit):  # it becomes part of URLs
            raise CheckpointSourceError(f"{self.source.hub} does not answer as a Hub does", remedy="Check `endpoint`")
        return commit, files


def _candidates(files: Iterable[str], folders: bool) -> Iterator[str]:
    """The files, or the folders that they are in, each with a slash at its end."""
    for file in files:
        if not folders:
            yield file
        else:
            yield from (file[: at + 1] for at, letter in enumerate(file) if letter == "/")


def _matches(name: str, pattern: str) -> bool:
    """Whether all parts of a path do; a star stays within one part."""
    parts, patterns = name.split("/"), pattern.split("/")
    return len(parts) == len(patterns) and all(map(fnmatchcase, parts, patterns))


class _HubFile(HttpBlob):
    """One file at the folder's commit."""

    def __init__(self, folder: HubFolder, path: str, name: str) -> None:
        self._folder = folder
        self._name = folder.prefix + name
        super().__init__(
            f"{folder.source.hub}/{path}",
            uri=folder.uri + name,
            headers=folder.headers,
            patience=folder.patience,
            connections=folder.connections,
        )

    def name_version(self, headers: Headers, size: int) -> str:
        """The commit, whatever the host that has the content calls it."""
        return f"commit:{self._folder.commit}"

    def refuse(self, status: int, phrase: str, headers: Headers, body: bytes) -> CheckpointError:
        """The error that the Hub's own code stands for; the host that it redirects to sends none."""
        folder, code = self._folder, headers.get("X-Error-Code") or phrase
        if folder.commit and status == 404:
            return CheckpointNotFoundError(
                f"{folder.source.repo} has no file {self._name!r} at commit {folder.commit[:12]}", remedy="Check `file`"
            )
        if status in (401, 403, 404):
            return _refusal(folder.source, status, code, token=bool(folder.headers))
        return refusal(self.uri, status, phrase)


class _HubText(_HubFile, HttpDocument):
    """A small file at the folder's commit, or what the Hub says about the repository."""


def _refusal(source: HuggingFaceSource, status: int, code: str, *, token: bool) -> CheckpointError:
    if code == "GatedRepo":
        return AccessDeniedError(
            f"{source.repo} is gated: its owners want to know who reads it",
            remedy=f"Accept its terms at {source.hub}/{source.repo}, and {_NAME_A_SECRET}, of the same account",
        )
    if code == "RevisionNotFound":
        return CheckpointNotFoundError(f"{source.repo} has no revision {source.revision!r}", remedy="Check `revision`")
    if status != 404 and token:
        return AccessDeniedError(
            f"the Hub refuses the token for {source.repo}: {status} {code}",
            remedy="Check whether HF_TOKEN has expired, and what its account may read",
        )
    kind = CheckpointNotFoundError if status == 404 else AccessDeniedError  # 401 is what a stranger is told of either
    return kind(
        f"there is no repository {source.repo!r} at {source.hub}, or it is private",
        remedy=f"Check `repo`; for a private one {_NAME_A_SECRET}",
    )
