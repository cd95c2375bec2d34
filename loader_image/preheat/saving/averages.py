"""Averaged weights of a training, which are saved as a variant of its checkpoints: `ema=0.9999`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError
from preheat.saving.weights import Weights, distinct, unwrapped
from preheat.strategies.filling.moves import part_of
from preheat.strategies.filling.shards import is_spread, local, target_of
from preheat.strategies.wrapping import plain

#: Under this key a training state has the averages, by the names of their variants.
AVERAGES = "averages"


class Average:
    """An exponential moving average of a model's parameters; call `update` after each step of the optimizer."""

    def __init__(self, model: Any, factor: float = 0.9999) -> None:
        if not 0 < factor < 1:
            raise CheckpointConfigError(f"the factor of an average is {factor!r:.40}; give one between 0 and 1")
        self.factor = factor
        self._model = unwrapped(model)
        self._average = get_ema_multi_avg_fn(factor)  # type: ignore[no-untyped-call]
        self._values = {name: value.detach().clone() for name, value in self._parameters().items()}

    @property
    def info(self) -> str:
        """What the variant is called."""
        return f"ema={self.factor!r}"

    def update(self) -> None:
        """Take the present parameters into the average."""
        with torch.no_grad():
            self._average(list(self._values.values()), list(self._parameters().values()), 0)

    def weights(self) -> Weights:
        """All of the model's weights, the averaged ones in place of the raw ones."""
        state = {plain(name): value for name, value in self._model.state_dict().items()}
        tensors = {name: value for name, value in state.items() if isinstance(value, torch.Tensor)}
        return distinct({**tensors, **self._values})

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The averaged parameters by name."""
        return dict(self._values)

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        """Go on with other averages; raises CheckpointIncompatibleError for those of another model."""
        if differing := state.keys() ^ self._values.keys():
            raise CheckpointIncompatibleError(f"the averages are of another model: {min(differing)} is in one alone")
        with torch.no_grad():
            for name, value in self._values.items():
                target, given = target_of(name, value), state[name]
                target.tensor.copy_(local(given) if is_spread(given) else part_of(given, target.region))

    def _parameters(self) -> dict[str, torch.Tensor]:
        """Those with a fraction, each once; of tied ones the first name."""
        named = self._model.named_parameters()
        return {plain(name): value for name, value in named if value.is_floating_point()}


def states_of(averages: Iterable[Average]) -> dict[str, dict[str, torch.Tensor]]:
    """Those of several, by the names of their variants."""
    return {each.info: each.state_dict() for each in averages}
