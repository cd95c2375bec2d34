"""A checkpoint in a bucket of S3 or of anything that speaks its protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from preheat.blob import Blob, Patience
from preheat.errors import CheckpointConfigError
from preheat.stage import CheckpointSource, Limit, Name, SecretName, SecretVariable


@dataclass(frozen=True)
class S3Source(CheckpointSource):
    """Read the checkpoint from an S3 bucket, by ranges, with the pod's own credentials."""

    bucket: Annotated[str, Limit(max_length=255, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:/-]*$")]
    """Name of the bucket."""

    key: Annotated[str, Limit(min_length=1, max_length=1024)]
    """Key of the checkpoint in the bucket; leading slashes do not count."""

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

    secret_variables: ClassVar[tuple[SecretVariable, ...]] = (
        SecretVariable("AWS_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", required=True),
        SecretVariable("AWS_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", required=True),
        SecretVariable("AWS_SESSION_TOKEN", "AWS_SESSION_TOKEN"),
    )

    def __post_init__(self) -> None:
        """Credentials for a source that is read without any are a mistake, whichever of the two was meant."""
        super().__post_init__()
        if self.anonymous and self.secret_ref:
            raise CheckpointConfigError("anonymous reads without credentials: leave out either it or secretRef")

    @property
    def uri(self) -> str:
        """`s3://bucket/key`."""
        return f"s3://{self.bucket}/{self.key.lstrip('/')}"

    def open(self, patience: Patience) -> Blob:
        """Ask for size and version, and for a way to read ranges; boto3 is imported here and nowhere else."""
        from preheat.sources.s3_blob import open_object

        return open_object(self, patience)
