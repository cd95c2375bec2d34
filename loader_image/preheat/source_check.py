"""The operator's check: `python -m preheat.source_check` reads source and index, no payload, and says what it found.

It is told everything as the loader is, runs as a Job before any pod asks for the checkpoint, and needs no volume.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from preheat.blob import Patience
from preheat.bundle.origins import told_of
from preheat.container import run
from preheat.loader import Settings
from preheat.resume.settings import Resume
from preheat.verbs.forecast import Forecast, plan_pipeline

log = logging.getLogger("preheat.source_check")

#: Warnings that a message holds, and characters of each: Kubernetes keeps 4096 bytes.
_TOLD, _SAID = 4, 300


@dataclass(frozen=True)
class Found:
    """What a pod's loader would find now."""

    forecast: Forecast
    seconds: float
    resume: Mapping[str, Any] | None = None  # of a run that is not in the pod's own file system

    def to_json(self) -> dict[str, Any]:
        """The check's message of success: of `source`, the same as the loader's."""
        plan = self.forecast
        warned = [warning[:_SAID] for warning in plan.warnings[:_TOLD]]
        return {
            "outcome": "checked",
            "source": {
                "uri": plan.uri,
                "version": plan.version,
                "sizeBytes": plan.size_bytes,
                "format": plan.format,
                "tensors": plan.tensors,
                "parameters": plan.parameters,
                "selectedBytes": plan.selected_bytes,
                "outputBytes": plan.output_bytes,
                **told_of(plan.merged),
            },
            "seconds": round(self.seconds, 3),
            **({"warnings": warned} if warned else {}),
            **({"resume": self.resume} if self.resume else {}),
        }


def check(settings: Settings) -> Found:
    """Raises what the loader would raise before it moves a byte of payload."""
    began = time.monotonic()
    forecast = plan_pipeline(settings.spec)
    log.info("found %s, version %s: %s, %d tensors", forecast.uri, forecast.version, forecast.format, forecast.tensors)
    resume = settings.spec.resume
    told = _resumable(resume, settings.spec.patience) if resume and not resume.run.in_pod else None
    return Found(forecast, time.monotonic() - began, told)


def _resumable(resume: Resume, patience: Patience) -> dict[str, Any]:
    """What a loader would try first; raises where the run's place does not answer."""
    from preheat.resume.candidates import candidates

    listed = candidates(resume, patience)
    first = listed.candidates[0].name if listed.candidates else None
    log.info("of the run in %s a pod would resume from %s", resume.where, first or "nothing")
    return {"run": resume.where, "strategy": resume.strategy, "checkpoint": first, "passed": []}


if __name__ == "__main__":
    sys.exit(run(lambda: check(Settings.read(os.environ))))
