"""Modifiers may claim weights before a strategy matches names: they are set aside, never lost."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import pytest
import torch

from preheat.context import CheckpointContext
from preheat.errors import CheckpointConfigError, NothingMatchedError
from preheat.pipeline import CheckpointPipeline
from preheat.stage import Claim, ModelModifier
from preheat.strategies.filling.shards import Target
from preheat.strategies.weights_only import WeightsOnlyLoader


class Scale(ModelModifier):
    """Wants `scale`, and knows that the checkpoint calls the weight `kernel`."""

    loads: ClassVar[bool] = True

    def claim(self, context: CheckpointContext, checkpoint: Iterable[str], model: Iterable[str]) -> Claim:
        return Claim({"kernel": "weight"}, frozenset({"scale"} & {*checkpoint, *model}))

    async def process(self, context: CheckpointContext) -> CheckpointContext:
        scale = torch.empty(1)
        assert context.weights is not None
        context.weights.fill({"scale": Target(scale)})
        with torch.no_grad():
            context.model.weight.mul_(scale)
        return context


def run(model: torch.nn.Module, state: dict[str, torch.Tensor], *modifiers: ModelModifier) -> CheckpointContext:
    context = CheckpointContext(model=model, checkpoint_data={"state_dict": state})
    return CheckpointPipeline([WeightsOnlyLoader(), *modifiers]).execute_sync(context)


def test_what_is_claimed_is_left_to_the_modifier_and_the_rest_found_under_its_name() -> None:
    model = torch.nn.Linear(2, 3, bias=False)
    context = run(model, {"kernel": torch.ones(3, 2), "scale": torch.tensor([5.0])}, Scale())
    assert torch.equal(model.weight, torch.full((3, 2), 5.0))
    assert context.metadata["transferred_params"] == ["weight"]
    assert context.metadata["skipped_params"] == {"scale": "left to a modifier"}


def test_without_the_modifier_the_names_are_unexpected() -> None:
    with pytest.raises(Exception, match="kernel"):
        run(torch.nn.Linear(2, 3, bias=False), {"kernel": torch.ones(3, 2), "scale": torch.ones(1)})


def test_tensors_of_the_model_can_be_claimed_too() -> None:
    model = torch.nn.Linear(2, 3, bias=False)
    model.register_buffer("scale", torch.tensor([5.0]))
    context = run(model, {"weight": torch.ones(3, 2), "scale": torch.tensor([2.0])}, Scale())
    assert context.metadata["initial_params"] == {"scale": "left to a modifier"}
    assert torch.equal(model.weight, torch.full((3, 2), 2.0))


def test_a_strategy_that_is_left_nothing_says_who_loads_it() -> None:
    with pytest.raises(NothingMatchedError, match=r"such as scale, are for a modifier\. Remove the strategy"):
        run(torch.nn.Linear(2, 3, bias=False), {"scale": torch.ones(1)}, Scale())


def test_two_modifiers_cannot_claim_the_same_weights() -> None:
    with pytest.raises(CheckpointConfigError, match="two modifiers claim the same weights"):
        run(torch.nn.Linear(2, 3), {"kernel": torch.ones(3, 2), "scale": torch.ones(1)}, Scale(), Scale())


def test_a_context_shows_what_is_set_and_reads_nothing_for_it() -> None:
    class Lazy(dict[str, torch.Tensor]):
        def __eq__(self, other: object) -> bool:
            raise AssertionError("compared")

        __hash__ = None  # type: ignore[assignment]

    context = CheckpointContext(checkpoint_data=Lazy(a=torch.ones(1)), metadata={}, weights_applied=True)
    assert repr(context) == "CheckpointContext(checkpoint_data, patience, weights_applied)"
