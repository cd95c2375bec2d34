"""Whole pickled modules give the names and bytes of their state dict, and nothing of them comes to life."""

from __future__ import annotations

import functools
import pickle
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from formats.samples import assert_equals, index_of, read_by_preheat, same, saved, saved_before_1_6
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from preheat.errors import CheckpointError, CheckpointLoadError, CheckpointValidationError, UnsupportedFormatError
from preheat.formats.pytorch import modules

FORMATS = {"zip": saved, "before 1.6": saved_before_1_6}


class Custom(nn.Module):
    """A user's module, with everything that a state dict leaves out."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 2))
        self.register_parameter("nothing", None)
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("left_out", torch.ones(2), persistent=False)
        self.register_buffer("unset", None)
        self.note = {"a": torch.ones(1)}
        self.child = nn.ModuleDict({"x": nn.Linear(2, 2), "y": nn.BatchNorm1d(2)})
        self.absent = None
        self.add_module("none", None)


def tied() -> nn.Module:
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 5, bias=False))
    model[1].weight = model[0].weight
    return model


def shared() -> nn.Module:
    layer = nn.Linear(2, 2)
    return nn.ModuleList([layer, layer])


def normed() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in many old files
        return nn.utils.weight_norm(nn.Linear(2, 3))


MODULES = {
    "linear": lambda: nn.Linear(2, 3),
    "convolutions": lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()),
    "lstm": lambda: nn.LSTM(2, 3, num_layers=2, bidirectional=True),
    "transformer": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False),
    "custom": Custom,
    "tied": tied,
    "shared": shared,
    "parallel": lambda: nn.DataParallel(nn.Linear(2, 2)),
    "half": lambda: nn.Linear(2, 3).to(torch.bfloat16),
    "channels last": lambda: nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last),
    "weight norm": normed,
    "frozen": lambda: nn.Linear(2, 3).requires_grad_(False),
}  # fmt: skip


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("name", MODULES)
def test_a_module_is_read_as_its_state_dict(name: str, written: str, tmp_path: Path) -> None:
    model = MODULES[name]()
    content = FORMATS[written](model)
    index = assert_equals(content, model.state_dict())
    assert index.layout == "module"
    found = read_by_preheat(content, tmp_path)
    assert all(same(found[key], value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_protocol_is_understood(protocol: int) -> None:
    model = Custom()
    assert_equals(saved(model, pickle_protocol=protocol), model.state_dict())


def test_classes_are_listed_and_stay_opaque() -> None:
    opaque = index_of(saved(nn.Sequential(nn.Linear(2, 2)))).opaque
    assert {"torch.nn.modules.container.Sequential", "torch.nn.modules.linear.Linear"} <= set(opaque)


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict"])
def test_a_module_inside_a_checkpoint_gives_the_weights(key: str) -> None:
    model = Custom()
    index = assert_equals(saved({key: model, "epoch": 7}), model.state_dict())
    assert (index.layout, index.state) == ("module", {"epoch": 7})


def test_a_state_dict_goes_before_a_module() -> None:
    index = index_of(saved({"model": nn.Linear(2, 2), "state_dict": {"w": torch.ones(1)}}))
    assert (index.layout, list(index.tensors)) == ("state_dict", ["w"])


def test_a_lightning_module_is_read_as_its_state_dict() -> None:
    import lightning

    class Wrapped(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(2, 2)

    Wrapped.__qualname__ = "Wrapped"
    globals()["Wrapped"] = Wrapped
    model = Wrapped()
    assert_equals(saved(model), model.state_dict())


layers = st.sampled_from([lambda: nn.Linear(1, 2), lambda: nn.BatchNorm1d(2), nn.ReLU, lambda: nn.Conv1d(1, 1, 1)])
trees = st.recursive(
    layers.map(lambda make: make()),
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda found: nn.Sequential(*found))
        | st.dictionaries(st.sampled_from("abcd"), inner, max_size=3).map(nn.ModuleDict)
    ),
    max_leaves=8,
)


@settings(max_examples=40, deadline=None)
@given(model=trees, written=st.sampled_from(sorted(FORMATS)))
def test_any_tree_of_modules_is_read_as_its_state_dict(model: nn.Module, written: str) -> None:
    if model.state_dict():
        assert_equals(FORMATS[written](model), model.state_dict())
    else:
        with pytest.raises(CheckpointLoadError, match="has no tensors"):
            index_of(FORMATS[written](model))


def with_state(**state: Any) -> nn.Module:
    model = nn.Linear(2, 2)
    model.__dict__.update(state)
    return model


class Reduced(nn.Linear):
    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(Reduced, 2), (2,), self.__dict__


class Called(nn.Linear):
    def __reduce__(self) -> tuple[Any, ...]:
        return Called, (), self.__dict__


class OwnState(nn.Linear):
    def __getstate__(self) -> tuple[Any, ...]:
        return (self.__dict__,)


def hooked(name: str) -> nn.Module:
    model = nn.Sequential(nn.Linear(2, 2))
    model[0].__dict__[name] = {0: len}
    return model


REFUSED = {
    "reduce": (lambda: Reduced(2, 2), "says itself how it is saved"),
    "called": (lambda: Called(2, 2), "says itself how it is saved"),
    "state": (lambda: OwnState(2, 2), "one pickled object of class .*OwnState"),
    "hook": (lambda: hooked("_state_dict_hooks"), "module '0'.*Linear, has hooks that change its state dict"),
    "hook before": (lambda: hooked("_state_dict_pre_hooks"), "has hooks that change its state dict"),
    "traced": (lambda: torch.fx.symbolic_trace(nn.Linear(2, 2)), "one pickled object of class torch.fx"),
    "lazy": (lambda: nn.Sequential(nn.LazyLinear(3)), "'0.weight' is"),
    "parameter": (lambda: with_state(_parameters={"w": [1]}), "tensor 'w' is an object of class list"),
    "child": (lambda: with_state(_modules={"c": 3}), "module 'c' is a int"),
    "foreign child": (lambda: with_state(_modules={"c": Path("x")}), "module 'c' is one pickled object of class path"),
    "number as name": (lambda: with_state(_parameters={1: torch.ones(1)}), "a name that is no text"),
    "sparse": (lambda: with_state(_parameters={"w": torch.eye(2).to_sparse()}), "'w' is sparse"),
    "conj": (lambda: with_state(_buffers={"b": torch.ones(1, dtype=torch.complex64).conj()}), "'b' is .*conj"),
}  # fmt: skip


@pytest.mark.parametrize("written", FORMATS)
@pytest.mark.parametrize("kind", REFUSED)
def test_modules_that_cannot_be_read_are_refused_with_the_remedy(kind: str, written: str) -> None:
    make, message = REFUSED[kind]
    with pytest.raises(CheckpointError, match=message) as caught:
        index_of(FORMATS[written](make()))
    assert caught.value.remedy or "no text" in message


@pytest.mark.parametrize(
    "kind", ["torch.nn.utils.parametrize.ParametrizedLinear", "torch.jit._script.ScriptModule",
             "torch.fx.graph_module.GraphModule", "torch.ao.nn.quantized.modules.linear.Linear"],
)  # fmt: skip
def test_modules_that_save_themselves_are_refused_by_their_class(kind: str) -> None:
    named = "\n".join(kind.rsplit(".", 1)).encode()
    content = saved_before_1_6(nn.Sequential(nn.Linear(2, 2))).replace(
        b"ctorch.nn.modules.linear\nLinear", b"c" + named
    )
    with pytest.raises(UnsupportedFormatError, match=rf"module '0' is of class {kind}.*Save model\.state_dict\(\)"):
        index_of(content)


def test_two_tensors_of_one_name_are_refused() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    model.__dict__["_parameters"] = {"0.weight": torch.ones(1)}
    with pytest.raises(CheckpointValidationError, match=r"two tensors called '0\.weight'"):
        index_of(saved(model))


def test_a_module_in_itself_is_refused() -> None:
    model = nn.Sequential(nn.Linear(1, 1))
    model._modules["again"] = model
    with pytest.raises(CheckpointLoadError, match="contains itself"):
        index_of(saved(model))


def test_modules_shared_a_thousand_times_over_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(modules, "MAX_ENTRIES", 10_000)
    model: nn.Module = nn.Linear(1, 1)
    for _ in range(40):
        model = nn.ModuleList([model, model])
    with pytest.raises(CheckpointLoadError, match="more than 10000 entries"):
        index_of(saved(model))


def test_setting_a_module_up_never_runs() -> None:
    class Alarm(nn.Linear):
        def __setstate__(self, state: Any) -> None:
            raise AssertionError("it came to life")

    Alarm.__qualname__ = "Alarm"
    globals()["Alarm"] = Alarm
    model = Alarm(2, 2)
    content = saved(model)
    with pytest.raises(AssertionError):
        pickle.loads(pickle.dumps(model))
    assert_equals(content, model.state_dict())
