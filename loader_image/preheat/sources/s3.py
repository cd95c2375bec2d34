"""A checkpoint in a bucket of S3 or of anything that speaks its protocol."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError
from preheat.limits import Limit, Name, SecretName
from preheat.sources.authorities import CABundle, check_ca_bundle
from preheat.stage import CheckpointSource, Place, SecretVariable

if TYPE_CHECKING:
    from preheat.sources.s3_blob import S3Folder

ANONYMOUS = (
    "anonymous reads without credentials: remove secretRef, profile and requesterPays, or set anonymous to false"
)
ONE_IDENTITY = "credentials come from one place: keep secretRef or profile"


@dataclass(frozen=True)
class S3Source(Place):
    """Read the checkpoint from an S3 bucket, by ranges, with the pod's own credentials."""

    example: ClassVar[str] = (
        "s3: {bucket: my-models, key: checkpoints/model-v1.ckpt, region: us-east-1, secretRef: s3-credentials}"
    )

    bucket: Annotated[str, Limit(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    """Name of the bucket."""

    key: Annotated[str, Limit(min_length=1, max_length=1024)]
    """Key of the file, of the index or `.metadata` of a checkpoint of several, or, ending in a slash, what their keys
    begin with. Leading slashes do not count."""

    region: Annotated[str, Limit(max_length=64, pattern=r"^[a-z0-9-]+$")] | None = None
    """Region; default: the one of the environment."""

    endpoint: Annotated[str, Limit(max_length=512, pattern=r"^https?://[^@/?#\s]+/?$")] | None = None
    """URL of the service for MinIO, Ceph, R2 and others; default: AWS."""

    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket's name goes into the path or the host name."""

    version_id: Name | None = None
    """Version of the object in a versioned bucket; default: the newest when the loader starts."""

    anonymous: bool = False
    """Read a public bucket without credentials."""

    secret_ref: SecretName | None = None
    """Name of a Secret in the pod's namespace: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, if any, AWS_SESSION_TOKEN.
    Default: what the pod's ServiceAccount grants."""

    profile: Name | None = None
    """Profile of the AWS configuration files. They are on a person's machine, hardly ever in a pod."""

    requester_pays: bool = False
    """Read a bucket whose requests and transfer are billed to who reads."""

    ca_bundle: CABundle | None = None
    """Certificates, as PEM text, of the authorities that the endpoint is trusted by; default: the system's."""

    secret_variables: ClassVar[tuple[SecretVariable, ...]] = (
        SecretVariable("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", required=True),
        SecretVariable("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", required=True),
        SecretVariable("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN"),
    )

    def __post_init__(self) -> None:
        """Two answers to the question whose credentials are used are a mistake, whichever was meant."""
        super().__post_init__()
        if self.anonymous and (self.secret_ref or self.profile or self.requester_pays):
            raise CheckpointConfigError(ANONYMOUS)
        if self.profile and self.secret_ref:
            raise CheckpointConfigError(ONE_IDENTITY)
        check_ca_bundle("caBundle", self.ca_bundle)

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key.lstrip('/')}"

    def at(self, uri: str, version: str) -> CheckpointSource:
        """In a versioned bucket, the object as it was then."""
        kind, _, number = version.partition(":")
        known = uri == self.uri and kind == "versionId" and not self.version_id
        return replace(self, version_id=number) if known else self

    def below(self, path: str) -> S3Source:
        """A key that begins as this one does."""
        return replace(self, key=f"{self.key.rstrip('/')}/{path}", version_id=None)

    def tree(self, patience: Patience) -> S3Folder:
        """The keys that begin with this one and a slash."""
        from preheat.sources.s3_blob import S3Folder

        prefix = self.key.strip("/")
        return S3Folder(self, f"{prefix}/" if prefix else "", patience)

    def beside(self, name: str) -> CheckpointSource:
        """The newest version of a key that differs in what follows the last slash."""
        prefix, slash, _ = self.key.rpartition("/")
        return replace(self, key=prefix + slash + name, version_id=None)

    def open(self, patience: Patience) -> Blob:
        """Ask for size and version, of every file where there are several; botocore is imported here, nowhere else."""
        from preheat.formats.folders import open_in
        from preheat.sources.s3_blob import S3Folder

        prefix, slash, name = self.key.lstrip("/").rpartition("/")
        return open_in(S3Folder(self, prefix + slash, patience), name)
