"""An fsspec filesystem as Preheat asks it: what a file's version is, what its packages' errors mean.

fsspec's packages agree neither on the names of what they know about a file nor on their errors.
"""

from __future__ import annotations

import re
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from datetime import UTC, datetime
from typing import Any

from fsspec.asyn import sync
from fsspec.core import url_to_fs
from fsspec.spec import AbstractFileSystem

from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
)

#: What tells one version from the next, best first: how it is spelled, and what filesystems call it.
_MARKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("generation", ("generation",)),
    ("versionId", ("version_id", "VersionId")),
    ("etag", ("etag", "ETag", "e_tag")),
    ("checksum", ("md5Hash", "content_md5", "Content-MD5", "md5", "checksum", "sha256", "sha", "CRC")),
)
_TIMES = ("mtime", "LastModified", "last_modified", "Last-Modified", "modified", "updated")


#: Synchronous filesystems that several threads may ask at once; others, such as FTP's, may have a single connection.
_CONCURRENT = frozenset({"file", "local", "memory", "hdfs", "arrow_hdfs"})


class Files:
    """One filesystem, and the calls that blobs make; `timeout` in seconds ends those of asynchronous ones."""

    def __init__(self, filesystem: AbstractFileSystem, timeout: float) -> None:
        self._filesystem = filesystem
        self._timeout = timeout
        # Without this the inherited read of a range would fetch megabytes of what follows it too.
        plain = not filesystem.async_impl and type(filesystem).cat_file is AbstractFileSystem.cat_file
        self._reading = {"cache_type": "none"} if plain else {}
        self.protocols = {filesystem.protocol} if isinstance(filesystem.protocol, str) else set(filesystem.protocol)
        concurrent = filesystem.async_impl or self.protocols & _CONCURRENT
        self._turn: AbstractContextManager[Any] = nullcontext() if concurrent else threading.Lock()
        if callable(close := getattr(filesystem, "close", None)):
            weakref.finalize(self, close)

    def info(self, path: str) -> dict[str, Any]:
        """What the storage says about a file, now."""
        self._filesystem.invalidate_cache()
        found = dict(self._call("info", path))
        if found.get("type") != "directory" and version_of(found) is None:
            with suppress(NotImplementedError), self._turn:
                found["mtime"] = self._filesystem.modified(path)
        return found

    def files_below(self, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Path and facts of every file at any depth, from one listing."""
        self._filesystem.invalidate_cache()
        for each, info in self._call("find", path, detail=True).items():
            if info.get("type", "file") == "file":
                yield each, info

    def content(self, path: str, start: int, stop: int) -> bytes:
        """Bytes [start, stop), or what the storage sends for them."""
        content: bytes = self._call("cat_file", path, start=start, end=stop, **self._reading)
        return content

    def whole(self, path: str) -> bytes:
        """A small file."""
        content: bytes = self._call("cat_file", path)
        return content

    def put(self, file: str, path: str, told: Any) -> None:
        """Send a file of this machine; the callback `told` hears of its bytes."""
        self._make_folder(path)
        # No limit of time for all of it: asynchronous filesystems have one for each request.
        if self._filesystem.async_impl:
            sync(self._filesystem.loop, self._filesystem._put_file, file, path, callback=told)
        else:
            with self._turn:
                self._filesystem.put_file(file, path, callback=told)

    def write(self, path: str, content: bytes) -> None:
        """Write a small file."""
        self._make_folder(path)
        self._call("pipe_file", path, value=content)

    def move(self, path: str, to: str) -> None:
        """Give a file another name; what had it before goes."""
        with self._turn:
            self._filesystem.mv(path, to)

    def remove(self, path: str) -> None:
        """Remove a file."""
        self._call("rm_file", path)

    def _make_folder(self, path: str) -> None:
        with suppress(NotImplementedError, FileExistsError), self._turn:
            self._filesystem.makedirs(self._filesystem._parent(path), exist_ok=True)

    def _call(self, name: str, path: str, **more: Any) -> Any:
        if self._filesystem.async_impl:
            method = getattr(self._filesystem, f"_{name}")
            return sync(self._filesystem.loop, method, path, timeout=self._timeout, **more)
        with self._turn:
            return getattr(self._filesystem, name)(path, **more)


def open_files(url: str, options: Mapping[str, Any], timeout: float) -> tuple[Files, str]:
    """The filesystem of a URL and the path in it; raises CheckpointConfigError when fsspec cannot read it here."""
    try:
        filesystem, path = url_to_fs(url, skip_instance_cache=True, **options)
    except ImportError as error:  # its text says which package
        scheme = url.partition(":")[0]
        raise CheckpointConfigError(
            f"fsspec cannot read {scheme}:// here: {error}", remedy="Install it into the loader's image"
        ) from error
    except (ValueError, TypeError) as error:  # an unknown protocol, an option that is none
        raise CheckpointConfigError(f"fsspec: {told(error)}", remedy="Check the URL's scheme and `options`") from error
    except Exception as error:  # of an archive that is opened here, or of a login
        raise error_of(url.partition("?")[0], error) from error
    return Files(filesystem, timeout), path


def version_of(info: Mapping[str, Any]) -> str | None:
    """How the version is spelled; None when the storage gives nothing to tell it by."""
    for spelled, names in _MARKS:
        for name in names:
            if info.get(name):
                return f"{spelled}:{info[name]}"
    time = next((info[name] for name in _TIMES if info.get(name)), None)
    return f"modified:{time}-{info.get('size')}" if time else None


def modified_of(info: Mapping[str, Any]) -> float:
    """When a file was written, seconds since the epoch; 0 where the storage does not tell."""
    time = next((info[name] for name in _TIMES if info.get(name)), 0)
    try:
        if isinstance(time, str):
            time = datetime.fromisoformat(time)
        if isinstance(time, datetime):
            time = (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()
        return float(time)
    except (ValueError, TypeError, OverflowError):
        return 0.0


def error_of(uri: str, error: Exception) -> CheckpointError:
    """The error of ours for one of an unknown package, by its type or by the status that it carries.

    A bare CheckpointSourceError and a CheckpointTimeoutError may pass.
    """
    error = _cause(error)
    status = _status(error)
    if isinstance(error, (FileNotFoundError, NotADirectoryError)) or status in (404, 410):
        return CheckpointNotFoundError(f"{uri}: there is no such file", remedy="Check the URL")
    if isinstance(error, PermissionError) or status in (401, 403) or re.search("Auth|Credential", type(error).__name__):
        return AccessDeniedError(
            f"{uri}: {told(error)}",
            remedy="Check what the pod's ServiceAccount may read, and the variables that the package reads",
        )
    if isinstance(error, TimeoutError):
        return CheckpointTimeoutError(f"{uri}: the storage does not answer", remedy="Check the storage and the network")
    return CheckpointSourceError(f"{uri}: {told(error)}", remedy="Check the URL, the storage and the network")


def told(error: Exception) -> str:
    """What an error says, without the query or the user of a URL in it."""
    text = re.sub(r"\?[^\s'\")]*", "?...", " ".join(str(error).split())[:300])
    return f"{type(error).__name__}: {re.sub(r'//[^/@ ]*@', '//***@', text)}" if text else type(error).__name__


def _cause(error: Exception) -> Exception:
    """Some filesystems call every failure FileNotFoundError; what it was stands behind it."""
    cause = error.__cause__
    real = isinstance(cause, (OSError, TimeoutError)) or (isinstance(cause, Exception) and _status(cause) is not None)
    return cause if isinstance(error, FileNotFoundError) and isinstance(cause, Exception) and real else error


def _status(error: Exception) -> int | None:
    codes = (getattr(error, name, None) for name in ("status", "status_code", "code"))
    return next((code for code in codes if isinstance(code, int)), None)
