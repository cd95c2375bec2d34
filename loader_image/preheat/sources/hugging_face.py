"""A checkpoint in a repository of the Hugging Face Hub, or of what speaks its protocol.

A revision is resolved to a commit once; from then on only that commit is read. The Hub's client library is not used: it
downloads files whole into a cache, while Preheat needs two addresses of the Hub and reads ranges.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from preheat.blob import Blob, Patience
from preheat.errors import AccessDeniedError, CheckpointConfigError
from preheat.limits import Limit, SecretName
from preheat.sources.authorities import CABundle, check_ca_bundle
from preheat.sources.http import ANONYMOUS, bearer, secret
from preheat.stage import CheckpointSource, Place, SecretVariable

ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True)
class HuggingFaceSource(Place):
    """Read the checkpoint from a model repository of the Hugging Face Hub, by ranges, at one commit."""

    example: ClassVar[str] = "huggingFace: {repo: org/model-7b, revision: v1.2, secretRef: hub-token}"

    repo: Annotated[str, Limit(max_length=200, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)?$")]
    """Name of the repository, such as `org/model`."""

    revision: Annotated[str, Limit(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._/-]*$")] = "main"
    """Branch, tag or commit."""

    file: Annotated[str, Limit(min_length=1, max_length=1024)] | None = None
    """Path of the file, of the index of a checkpoint of several, or, ending in a slash, of their folder in the
    repository; with `*` and `?` the only one that matches. Default: the checkpoint that the repository is."""

    endpoint: Annotated[str, Limit(max_length=512, pattern=r"^https?://[^@?#\s]+$")] | None = None
    """URL of another Hub; default: HF_ENDPOINT of the environment, else the public one."""

    anonymous: bool = False
    """Send no token, whatever the environment holds."""

    secret_ref: SecretName | None = None
    """Name of a Secret in the pod's namespace with the key HF_TOKEN, for private and gated repositories."""

    ca_bundle: CABundle | None = None
    """Certificates, as PEM text, of the authorities that the Hub is trusted by; default: the system's."""

    secret_variables: ClassVar[tuple[SecretVariable, ...]] = (SecretVariable("HF_TOKEN", "HF_TOKEN", required=True),)

    def __post_init__(self) -> None:
        """A token for nobody is a mistake, and so is a path that leads out of the repository."""
        super().__post_init__()
        if self.anonymous and self.secret_ref:
            raise CheckpointConfigError(ANONYMOUS)
        if self.file and not {"", ".", ".."}.isdisjoint(self.file.removesuffix("/").split("/")):
            raise CheckpointConfigError(f"HuggingFaceSource.file: {self.file!r} is no path in the repository")
        check_ca_bundle("caBundle", self.ca_bundle)

    @property
    def uri(self) -> str:
        """`hf://org/model@revision/file`."""
        return f"hf://{self.repo}@{self.revision}/{self.file or ''}"

    @property
    def hub(self) -> str:
        """The Hub's URL without a slash at its end."""
        return (self.endpoint or os.environ.get("HF_ENDPOINT") or ENDPOINT).rstrip("/")

    def beside(self, name: str) -> CheckpointSource:
        """A file of the same folder, at the same revision."""
        folder, slash, _ = (self.file or "").rpartition("/")
        return replace(self, file=folder + slash + name)

    def below(self, path: str) -> HuggingFaceSource:
        """A path in the folder, at the same revision."""
        return replace(self, file=f"{(self.file or '').rstrip('/')}/{path}".lstrip("/"))

    def open(self, patience: Patience) -> Blob:
        """Resolve the revision, and ask for the size of every file."""
        from preheat.formats.folders import open_in
        from preheat.sources.hub_blob import HubFolder

        folder = HubFolder(self, self._authorization(), patience)
        return open_in(folder, folder.name)

    def _authorization(self) -> dict[str, str]:
        if self.anonymous:
            return {}
        if token := secret("HF_TOKEN"):
            return bearer(token, "HF_TOKEN")
        if self.secret_ref:
            raise AccessDeniedError(
                f"Secret {self.secret_ref!r} is missing, or its key HF_TOKEN is empty",
                remedy="Create it in the pod's namespace; outside a cluster set HF_TOKEN",
            )
        return {}
