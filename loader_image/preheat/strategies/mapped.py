"""What every strategy lets the user say about names, of either side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from preheat.limits import Limit
from preheat.mapping import NameMapping
from preheat.names import Patterns
from preheat.paths import Paths, holds
from preheat.stage import LoadingStrategy
from preheat.strategies.wrapping import plain

#: What a report calls the strategy that restores a training.
WARM_START = "warm_start"

#: Why a tensor keeps its initial value, in the report; what follows the first is the pattern.
KEPT = "kept by "
OUTSIDE = "outside of the parts"


@dataclass(frozen=True, kw_only=True)
class MappedStrategy(NameMapping, LoadingStrategy):
    """Loads by name: some of the checkpoint's tensors, under other names, into some of the model's."""

    keep: Patterns = ()
    r"""Regular expressions: tensors of the model in whose name one of them is found keep their initial value."""

    parts: Paths = ()
    """Dotted paths of the parts of the model that the checkpoint is for, such as `encoder` or `stacks.1`: all else
    keeps its initial value, and `strict` holds for the parts. Default: all of the model."""

    buffers: bool = True
    """Fill the model's buffers, such as running statistics, too; false: they keep their initial value."""

    ema: Annotated[str, Limit(min_length=1, max_length=512)] | None = None
    """Take averaged weights in place of the raw ones: `auto`, or the keys that lead to them, as in
    `callbacks.EMA.shadow`."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples, and patterns have to be regular expressions."""
        self._list("keep", "parts")
        super().__post_init__()
        self._compile("keep")

    def left_initial(self, name: str) -> str:
        """Why a tensor of the model keeps its initial value as this stage asks; nothing when it does not."""
        if self.parts and not any(holds(path, plain(name)) for path in self.parts):
            return OUTSIDE
        pattern = next((pattern for pattern in self.keep if re.search(pattern, name)), "")
        return f"{KEPT}'{pattern}'" if pattern else ""


@dataclass(frozen=True, kw_only=True)
class ResizingStrategy(MappedStrategy):
    """May bridge sizes that differ. Not a warm start: an optimizer's state has the sizes of the checkpoint."""

    interpolate: Patterns = ()
    """Regular expressions: position embeddings, tables of relative positions and kernels of patches in whose name one
    of them is found become those of the model's grid, by bicubic interpolation, where their sizes differ."""

    overlap: Patterns = ()
    """Regular expressions: of tensors in whose name one of them is found, such as a vocabulary's, the part that both
    sides have is copied where their sizes differ; the rest keeps its initial value."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples, and patterns have to be regular expressions."""
        self._list("interpolate", "overlap")
        super().__post_init__()
        self._compile("interpolate", "overlap")
