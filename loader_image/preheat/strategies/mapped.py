"""What every strategy lets the user say about names, of either side."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from preheat.mapping import NameMapping
from preheat.names import Patterns
from preheat.stage import Limit, LoadingStrategy


@dataclass(frozen=True, kw_only=True)
class MappedStrategy(NameMapping, LoadingStrategy):
    """Loads by name: some of the checkpoint's tensors, under other names, into some of the model's."""

    keep: Patterns = ()
    r"""Regular expressions: tensors of the model in whose name one of them is found keep their initial value."""

    buffers: bool = True
    """Fill the model's buffers, such as running statistics, too; false: they keep their initial value."""

    ema: Annotated[str, Limit(min_length=1, max_length=512)] | None = None
    """Take averaged weights in place of the raw ones: `auto`, or the keys that lead to them, as in
    `callbacks.EMA.shadow`."""

    def __post_init__(self) -> None:
        """Lists from YAML become tuples, and patterns have to be regular expressions."""
        self._list("keep")
        super().__post_init__()
        self._compile("keep")

    def kept_by(self, name: str) -> str:
        """The first pattern by which a tensor of the model keeps its initial value; nothing when there is none."""
        return next((pattern for pattern in self.keep if re.search(pattern, name)), "")


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
