"""The `verify` stage: what must hold of the bytes before anything is published.

CRC-32 of zip records, declared sizes, overlap and duplicates are checked without being asked for; this stage adds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from preheat.checks import Checks
from preheat.context import CheckpointContext
from preheat.stage import Limit, PipelineStage


@dataclass(frozen=True)
class Verify(PipelineStage):
    """Check the checkpoint's bytes as they pass; a failed check publishes nothing."""

    sha256: Annotated[str, Limit(max_length=64, pattern=r"^[0-9a-f]{64}$")] | None = None
    """SHA-256 of the whole object in hexadecimal. The loader then reads all of it, not only the selected tensors."""

    crc32: bool = True
    """Check the CRC-32 of every zip record of a torch file."""

    finite: bool = True
    """Refuse weights that hold NaN or infinity."""

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        """Tighten what later reads of the checkpoint's data verify."""
        context.checks = Checks(self.sha256, self.crc32, self.finite)
        return context
