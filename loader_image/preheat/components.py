"""Every component of Preheat's own, family by family; the catalog finds them as it finds those of third parties."""

from __future__ import annotations

from preheat.convert import Convert
from preheat.modifiers import MODIFIERS
from preheat.sources import SOURCES
from preheat.stage import PipelineStage
from preheat.strategies import STRATEGIES
from preheat.verify import Verify

CHECKS: dict[str, type[PipelineStage]] = {"verify": Verify}
CONVERSIONS: dict[str, type[PipelineStage]] = {"convert": Convert}

#: In the order in which a pipeline runs the families.
BUILT_IN: dict[str, type[PipelineStage]] = {**SOURCES, **CHECKS, **CONVERSIONS, **STRATEGIES, **MODIFIERS}
