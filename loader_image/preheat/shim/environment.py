"""What the operator tells a training process."""

from __future__ import annotations

import os
from pathlib import Path

from preheat.errors import CheckpointConfigError


def bundle_folder() -> Path:
    """The folder that PREHEAT_BUNDLE names; raises CheckpointConfigError when it is not set."""
    if not (folder := os.environ.get("PREHEAT_BUNDLE")):
        raise CheckpointConfigError(
            "PREHEAT_BUNDLE is not set, so there is no checkpoint to apply",
            remedy="Label the pod `preheat.dev/pipeline: NAME`; outside Kubernetes run "
            "`preheat exec --pipeline FILE -- COMMAND`, or set PREHEAT_BUNDLE to the folder of what `preheat run` made",
        )
    return Path(folder)
