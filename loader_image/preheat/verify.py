"""The `verify` stage: what must hold of the bytes before anything is published.

CRC-32 of zip records, declared sizes, overlap and duplicates are checked without being asked for; this stage adds.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from preheat.blob import Blob, Patience
from preheat.checks import CHECKS, Check, Checks, Findings
from preheat.construction import part
from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, SourceChangedError, UntrustedError
from preheat.expect import Expect
from preheat.index import Index
from preheat.limits import Limit
from preheat.paths import listed
from preheat.signature import Signature
from preheat.stage import CheckpointSource, PipelineStage


@dataclass(frozen=True)
class Verify(PipelineStage):
    """Check the checkpoint's bytes as they pass; a failed check publishes nothing."""

    example: ClassVar[str] = r"""
verify:
  crc64nvme: ruCbyJR4oS0=
  expect: {tensors: 148, names: ['^encoder\.'], shapes: {head.weight: [10, 768]}}
  warnOnly: [finite]
"""

    sha256: Annotated[str, Limit(max_length=64, pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the whole object in hexadecimal. The loader then reads all of it, not only the selected tensors."""

    crc32: bool = True
    """Check the CRC-32 of every zip record of a torch file."""

    finite: bool = True
    """Refuse weights that hold NaN or infinity."""

    md5: Annotated[str, Limit(max_length=32, pattern=r"^[0-9a-f]{32}$")] | None = None
    """MD5 of the whole object in hexadecimal: against accidents, not against forgery. All of it is read."""

    crc64nvme: Annotated[str, Limit(max_length=16, pattern=r"^([0-9a-f]{16}|[A-Za-z0-9+/]{11}=)$")] | None = None
    """CRC-64/NVME of the whole object, in base64 as S3 shows it or in hexadecimal. All of it is read, in any order."""

    etag: Annotated[str, Limit(max_length=256, pattern=r'^(W/)?"?[!#-~]+"?$')] | None = None
    """The ETag that the server has to give the object: that it is this version, not what its bytes are."""

    expect: Expect | None = None
    """What the checkpoint has to hold, compared before the tensors are read; where this stage follows convert, after
    its changes."""

    signature: Signature | None = None
    """Take only files that are signed in the OpenSSF model signing format. Every byte of them is read."""

    warn_only: Annotated[tuple[Check, ...], Limit(max_length=8)] = ()
    """Checks of this stage that only warn, in the log and in the manifest, instead of stopping the pod."""

    def __post_init__(self) -> None:
        """Mappings from YAML become objects; a check that is not made cannot warn."""
        object.__setattr__(self, "expect", part(Expect, self.expect, "Verify.expect"))
        object.__setattr__(self, "signature", part(Signature, self.signature, "Verify.signature"))
        object.__setattr__(self, "warn_only", listed("Verify.warnOnly", self.warn_only))
        super().__post_init__()
        for name in self.warn_only:
            if name not in CHECKS:
                raise CheckpointConfigError(f"Verify.warnOnly: {name!r:.80} is none of {', '.join(CHECKS)}")
            if not getattr(self, name):
                raise CheckpointConfigError(f"Verify.warnOnly: {name} is not checked, so it cannot warn")

    @property
    def checks(self) -> Checks:
        """What is compared while bytes pass."""
        return Checks(
            self.sha256, self.crc32, self.finite, self.md5, _hexadecimal(self.crc64nvme), self.etag, self.warn_only
        )

    def pinned(self, blob: Blob, source: CheckpointSource, patience: Patience, findings: Findings) -> Checks:
        """The checks of a checkpoint that was just opened, with the digests that its signature vouches for.

        What can be told before its index is read is told here: another version, a signature that is not good.
        """
        compare_etag(blob, self.etag, findings)
        if self.signature is None:
            return self.checks
        try:
            return replace(self.checks, signed=self.signature.of(blob, source, patience))
        except UntrustedError as error:
            findings.add("signature", error)
            return self.checks

    def compare(self, index: Index, findings: Findings) -> None:
        """Find out whether a checkpoint of this index is the expected one."""
        if self.expect:
            try:
                self.expect.check(index)
            except CheckpointIncompatibleError as error:
                if "expect" not in self.warn_only:  # that of this stage, whichever else there are
                    raise
                findings.keep("expect", error)

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Tighten what later reads of the checkpoint's data verify, and compare it with what is expected."""
        import asyncio  # 20 ms that the loader, which runs no event loop, does not pay

        from preheat.bundle.data import indexed

        findings = Findings(self.warn_only)
        context.checks = self.checks
        if self.etag or self.signature or self.expect:
            data = indexed(context, "verify")
            if context.source is None:
                raise CheckpointConfigError("verify has no source that it could ask", remedy="Put it after the source")
            pin = partial(self.pinned, data.blob, context.source, context.patience, findings)
            context.checks = await asyncio.to_thread(pin)
            self.compare(data.index, findings)
        context.add_warnings(findings.warnings)
        return context


@runtime_checkable
class Tagged(Protocol):
    """A blob whose server may have given it an ETag."""

    @property
    def etag(self) -> str | None:
        """As the header was."""
        ...


def compare_etag(blob: Blob, expected: str | None, findings: Findings) -> None:
    """Find out whether the server gives the object the ETag that is expected, if one is; quotes do not count.

    Raises CheckpointConfigError for a source that has none: what an ETag is made of only its server knows.
    """
    if expected is None:
        return
    found = blob.etag if isinstance(blob, Tagged) else None
    if found is None:
        raise CheckpointConfigError(
            f"{blob.uri} has no ETag that verify could compare", remedy="Give sha256, md5 or crc64nvme instead"
        )
    if found.replace('"', "") != expected.replace('"', ""):
        error = SourceChangedError(
            f"{blob.uri} has the ETag {found}, verify expects {expected}",
            remedy="Correct etag, or set versionId where the bucket keeps versions",
        )
        findings.add("etag", error)


def _hexadecimal(checksum: str | None) -> str | None:
    return base64.b64decode(checksum).hex() if checksum and checksum.endswith("=") else checksum
