"""What a migration writes, kept to be read and compared."""

from __future__ import annotations

import os
from pathlib import Path

HERE = Path(__file__).parent
CONFIGS, GOLDEN = HERE / "configs", HERE / "golden"
#: Configurations that a training is started with; the other files there are included by them.
NAMES = (
    "anemoi/train", "anemoi/guide", "anemoi/typed", "linnaeus/experiment", "linnaeus/resume", "linnaeus/stitched",
    "noether/resume", "noether/initializer", "noether/composite", "noether/fetched", "stackwise/config",
    "stackwise/restore", "stackwise/stack",
)  # fmt: skip


def expected(name: str, text: str) -> str:
    """The golden file of that name, written anew with PREHEAT_UPDATE_GOLDEN."""
    path = GOLDEN / name
    if os.environ.get("PREHEAT_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return path.read_text()
