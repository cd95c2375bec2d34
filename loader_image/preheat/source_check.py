"""The operator's check: `python -m preheat.source_check` reads source and index, no payload, and says what it found.

It is told everything as the loader is, runs as a Job before any pod asks for the checkpoint, and needs no volume.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import Any

from preheat import loader
from preheat.bundle.facts import told_of
from preheat.verbs.forecast import Forecast, plan_pipeline

#: Warnings that a message holds, and characters of each: Kubernetes keeps 4096 bytes.
_TOLD, _SAID = 4, 300


@dataclass(frozen=True)
class Found:
    """What a pod's loader would find now."""

    forecast: Forecast
    seconds: float

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
        }


def check(settings: loader.Settings) -> Found:
    """Raises what the loader would raise before it moves a byte of payload."""
    began = time.monotonic()
    forecast = plan_pipeline(settings.spec)
    loader.log.info(
        "found %s, version %s: %s, %d tensors", forecast.uri, forecast.version, forecast.format, forecast.tensors
    )
    return Found(forecast, time.monotonic() - began)


if __name__ == "__main__":
    sys.exit(loader.run(check))
