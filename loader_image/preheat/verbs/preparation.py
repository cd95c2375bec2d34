"""The loader's part of a pipeline on this machine, without a cluster."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from preheat.bundle.lease import owner_here
from preheat.bundle.store import Store
from preheat.prepare import Outcome, prepare
from preheat.progress import Progress
from preheat.spec import PipelineSpec, spec_of


def run_pipeline(
    pipeline: PipelineSpec | Mapping[str, Any] | Sequence[Any] | Path | str,
    output: Path | str,
    *,
    progress: Progress | None = None,
) -> Outcome:
    """Fetch, check and convert the checkpoint of a pipeline into a bundle below `output`, or find it there.

    The pipeline is a resource, its spec, its stages, or the path of a YAML file with one of them; what it has under
    `resume` is for where a training starts. Raises a CheckpointError, and then no bundle is left.
    """
    return prepare(spec_of(pipeline), Store(Path(output).expanduser()), owner_here(), progress=progress)
