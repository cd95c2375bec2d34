"""Every way Preheat refuses, as classes that carry a stable reason code.

`reason` is what scripts, pod statuses and Events see; the message tells a person what and why, `remedy` what next.
`continuable` says what `onFailure: Continue` passes over: what keeps a good checkpoint from the model. Never what is
wrong with the checkpoint's bytes or with the pipeline: that somebody has to look at.
The first level is the exception family of Anemoi's checkpoint guide: code written for it keeps its `except` clauses.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: What an error says that came too late to leave the model as it was.
TOUCHED = "the model was touched: do not train with it"


class CheckpointError(Exception):
    """Anything that keeps a checkpoint from reaching its model."""

    reason = "Failed"
    exit_code = 1
    continuable = False

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.remedy = remedy

    def __str__(self) -> str:
        message = super().__str__()
        return f"{message}. {self.remedy}" if self.remedy else message

    @property
    def touched(self) -> bool:
        """Whether it came too late to leave the model as it was."""
        return bool(self.args) and TOUCHED in str(self.args[0])


class CheckpointConfigError(CheckpointError):
    """The pipeline itself is wrong: unknown component, bad parameter, stages that do not fit together."""

    reason = "InvalidPipeline"
    exit_code = 2


class CheckpointSourceError(CheckpointError):
    """The source could not be read; trying again may help."""

    reason = "SourceUnreachable"
    exit_code = 10
    continuable = True


class CheckpointNotFoundError(CheckpointSourceError):
    """The source answered: there is no such object, bucket, file or folder."""

    reason = "NotFound"
    exit_code = 11


class AccessDeniedError(CheckpointSourceError):
    """The source refused the credentials it was given, or their absence."""

    reason = "AccessDenied"
    exit_code = 12


class CheckpointTimeoutError(CheckpointSourceError):
    """No progress within the pipeline's limit."""

    reason = "Timeout"
    exit_code = 13


class SourceChangedError(CheckpointSourceError):
    """The object was replaced between two reads, or is not the expected version; a mixture is never published."""

    reason = "SourceChanged"
    exit_code = 14
    continuable = False


class CheckpointLoadError(CheckpointError):
    """The bytes are not a checkpoint that can be read safely."""

    reason = "UnreadableCheckpoint"
    exit_code = 20


class UnsupportedFormatError(CheckpointLoadError):
    """No known format, or a feature of a known one that Preheat refuses by name."""

    reason = "UnsupportedFormat"
    exit_code = 21


class TruncatedError(CheckpointLoadError):
    """Bytes that the checkpoint declares are not there; the message names their range."""

    reason = "Truncated"
    exit_code = 22


class NoWeightsError(CheckpointLoadError):
    """A checkpoint was given and the model still has its initial weights; training from those is refused."""

    reason = "NoWeights"
    exit_code = 23


class CheckpointValidationError(CheckpointError):
    """The bytes are there and are not what was declared: checksum, CRC, NaN, overlap, duplicates."""

    reason = "Corrupt"
    exit_code = 30


class UntrustedError(CheckpointValidationError):
    """The checkpoint is not what somebody whom the pipeline trusts has signed."""

    reason = "Untrusted"
    exit_code = 31


class CheckpointIncompatibleError(CheckpointError):
    """The checkpoint does not fit the model, or what is expected of it: names, shapes, or nothing matched at all."""

    reason = "Incompatible"
    exit_code = 40
    continuable = True


class NothingMatchedError(CheckpointIncompatibleError):
    """A strategy or modifier would have changed nothing, a pattern matches no name: a failure, never a success."""

    reason = "NothingMatched"
    exit_code = 41


class UnsupportedVersionError(CheckpointError):
    """A version of Python, torch or a framework that Preheat does not know; nothing was done."""

    reason = "UnsupportedVersion"
    exit_code = 42
    continuable = True


class StorageError(CheckpointError):
    """The volume refused the bundle: full, read-only, or failing."""

    reason = "StorageFailed"
    exit_code = 50
    continuable = True


class NoSpaceError(StorageError):
    """Not enough free space for the bundle."""

    reason = "NoSpace"
    exit_code = 51


class BundleInUseError(StorageError):
    """Pods refer to the bundle that was to be removed."""

    reason = "InUse"
    exit_code = 52
    continuable = False


class NotABundleError(CheckpointError):
    """A folder without a complete manifest, or one whose files do not match it."""

    reason = "NotABundle"
    exit_code = 60


@contextmanager
def about(uri: str) -> Iterator[None]:
    """Say whose bytes are wrong, where the parts that found it out do not know."""
    try:
        yield
    except (CheckpointLoadError, CheckpointValidationError) as error:
        if uri in error.args[0]:
            raise
        raise type(error)(f"{uri}: {error.args[0]}", remedy=error.remedy) from error
