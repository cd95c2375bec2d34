"""A checkpoint in any storage that fsspec has a filesystem for: Google's and Azure's, HDFS, SFTP, WebDAV and others.

Credentials are the environment's or the ServiceAccount's: options that look like one are refused, for everybody who may
read the resource would read them. Refused too are reference filesystems, which run templates that they read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit
from preheat.stage import CheckpointSource, Place

if TYPE_CHECKING:
    from preheat.sources.fsspec_blob import FsspecFolder

_PASSWORD = re.compile(r"://[^/\s]*:[^/\s]*@")
_SECRET = re.compile(
    r"(?i)^key$|secret|token|passw|passphrase|pass_?phrase|credential|connection_?string|(account|api|access|shared|private)_?key"
    r"|pkey|^sas|_sas|auth|cookie|signature"
)
#: What such options may say nonetheless: where credentials come from, or that there are none.
_HARMLESS = frozenset({"anon", "anonymous", "google_default", "cloud"})


@dataclass(frozen=True)
class FsspecSource(Place):
    """Read the checkpoint by ranges through fsspec, such as gs://bucket/key; the loader's image holds the packages."""

    example: ClassVar[str] = 'fsspec: {url: "gs://my-models/model-v1.ckpt", options: {project: my-project}}'

    url: Annotated[str, Limit(max_length=2048, pattern=r"^[a-z][a-z0-9+.-]*://[^\s]+$")]
    """URL of the file, of the index or `.metadata` of a checkpoint of several, or, ending in a slash, of their folder.
    No password in it."""

    options: dict[str, Any] = field(default_factory=dict)
    """Arguments of the filesystem, such as `project`. No credentials: they are those of the environment."""

    def __post_init__(self) -> None:
        """Credentials in what everybody may read are refused, and are not repeated."""
        super().__post_init__()
        if _PASSWORD.search(self.url):
            raise CheckpointConfigError("the URL of fsspec holds a password", remedy=_REMEDY)
        if re.search(r"(^|::)reference:", self.url):
            raise CheckpointConfigError(
                "fsspec's reference filesystem runs templates that it reads", remedy="Name the file that is referred to"
            )
        _refuse_secrets(self.options)

    @property
    def uri(self) -> str:
        """The URL without a query, which may carry a signature."""
        return self.url.partition("?")[0]

    def beside(self, name: str) -> CheckpointSource:
        """A file of the same folder, in the same storage."""
        inner, mark, outer = self.url.partition("::")
        return replace(self, url=inner[: inner.rindex("/") + 1] + name + mark + outer)

    def below(self, path: str) -> FsspecSource:
        """A path in the folder, in the same storage."""
        inner, mark, outer = self.url.partition("::")
        return replace(self, url=f"{inner.rstrip('/')}/{path}{mark}{outer}")

    def tree(self, patience: Patience) -> FsspecFolder:
        """The folder."""
        folder, _ = self.below("")._folder(patience)
        return folder

    def open(self, patience: Patience) -> Blob:
        """Ask for size and version, of every file where there are several; fsspec is imported here and nowhere else."""
        from preheat.formats.folders import open_in

        return open_in(*self._folder(patience))

    def _folder(self, patience: Patience) -> tuple[FsspecFolder, str]:
        """The folder that the URL is or is in, and the file's name."""
        try:
            import fsspec  # noqa: F401
        except ImportError as error:
            raise CheckpointConfigError(
                f"{self.url.partition(':')[0]}:// is read through fsspec, which is not installed",
                remedy="Install preheat[fsspec], for pods into the loader's image",
            ) from error
        from preheat.sources.fsspec_blob import open_folder

        return open_folder(self.url, self.options, patience)


_REMEDY = "Let the pod's serviceAccountName grant access, or set the variables that the filesystem's package reads"


def _refuse_secrets(options: Mapping[str, Any]) -> None:
    for name, value in options.items():
        if isinstance(value, Mapping):
            _refuse_secrets({str(key): each for key, each in value.items()})
        elif isinstance(value, str) and value not in _HARMLESS and (_SECRET.search(name) or _PASSWORD.search(value)):
            raise CheckpointConfigError(f"option {name!r} of fsspec looks like a credential", remedy=_REMEDY)
