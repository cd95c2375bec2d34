"""LoRA: what comes of a checkpoint with, without or of nothing but adapters, compared with what peft makes of it."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from preheat.context import CheckpointContext
from preheat.errors import (
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    NothingMatchedError,
    NoWeightsError,
)
from preheat.modifiers.lora import LoRAModifier
from preheat.pipeline import CheckpointPipeline

peft = pytest.importorskip("peft", reason="peft is not installed")
pytestmark = pytest.mark.filterwarnings("ignore")

TOKENS = torch.arange(11).reshape(1, 11)


class Network(torch.nn.Module):
    """Two blocks with layers of the same names, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(11, 8)
        block = lambda: torch.nn.ModuleDict({"q": torch.nn.Linear(8, 8), "v": torch.nn.Linear(8, 8)})  # noqa: E731
        self.blocks = torch.nn.ModuleList([block(), block()])
        self.norm = torch.nn.LayerNorm(8)
        self.head = torch.nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x)
        for block in self.blocks:
            x = x + block["q"](x) * block["v"](x)
        return self.head(self.norm(x))


def language_model() -> Any:
    transformers = pytest.importorskip("transformers", reason="Transformers is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "vocab_size": 11}
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(num_attention_heads=2, **sizes))


def network() -> Network:
    return Network()


MODELS = pytest.mark.parametrize("build", [network, language_model])


def output(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found = model.eval()(TOKENS)
    return found if isinstance(found, torch.Tensor) else found.logits


def targets_of(model: Any) -> list[str]:
    return ["q", "v"] if isinstance(model, Network) else ["q_proj", "v_proj", "down_proj"]


def adapted(model: Any, **settings: Any) -> Any:
    """What peft makes of a copy, with adapters that change what it computes."""
    given = {"r": 4, "lora_alpha": 16, "target_modules": targets_of(model), "init_lora_weights": False, **settings}
    return peft.get_peft_model(copy.deepcopy(model), peft.LoraConfig(**given))


def run(model: Any, *stages: Any, **context: Any) -> CheckpointContext:
    return CheckpointPipeline(stages).execute_sync(CheckpointContext(model=model, **context))


def saved(path: Path, state: dict[str, torch.Tensor]) -> dict[str, Any]:
    torch.save({"state_dict": state}, path)
    return {"local": {"path": str(path)}}


def folder(path: Path, model: Any, **changed: Any) -> dict[str, Any]:
    """An adapter as peft saves it, with some settings of its configuration changed."""
    model.save_pretrained(path)
    config = path / "adapter_config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | changed))
    return {"local": {"path": str(path)}}


def entry(context: CheckpointContext) -> Any:
    return context.metadata["modifiers_applied"][-1]


# What peft makes of the same files


@MODELS
def test_adapters_of_a_checkpoint_without_any_begin_as_peft_begins_them(build, tmp_path):
    base, model = build(), build()
    parameters = {name: (id(p), p) for name, p in model.named_parameters()}
    torch.manual_seed(1)
    context = run(model, saved(tmp_path / "a.ckpt", base.state_dict()), {"weightsOnly": {}},
                  {"lora": {"rank": 2, "alpha": 8, "dropout": 0.1, "targets": targets_of(model)}})  # fmt: skip
    torch.manual_seed(1)
    theirs = adapted(base, r=2, lora_alpha=8, lora_dropout=0.1, init_lora_weights=True)
    assert context.model is model
    assert {id(p) for p in model.parameters()} > {key for key, _ in parameters.values()}
    assert [(n, p.requires_grad) for n, p in model.named_parameters()] == [
        (n.removeprefix("base_model.model."), p.requires_grad) for n, p in theirs.named_parameters()
    ]
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), theirs.parameters(), strict=True))
    assert torch.equal(output(model), output(base))
    assert not context.metadata["initial_params"]
    assert all("lora_" in name for name in context.metadata["added_params"])
    assert context.metadata["transferred_params"] == [n for n in model.state_dict() if "lora_" not in n]


@MODELS
@pytest.mark.parametrize("prefix", ["", "base_model.model.", "module.base_model.model."])
def test_a_checkpoint_with_adapters_gives_what_the_saved_model_gave(build, prefix, tmp_path):
    theirs = adapted(build())
    state = {prefix + n.removeprefix("base_model.model."): v for n, v in theirs.state_dict().items()}
    context = run(build(), saved(tmp_path / "a.ckpt", state), {"weightsOnly": {}}, {"lora": {"alpha": 16}})
    assert torch.equal(output(context.model), output(theirs))
    assert sorted(context.metadata["transferred_params"]) == sorted(context.model.state_dict())
    assert not context.metadata["skipped_params"]
    assert entry(context)["rank"] == 4
    assert entry(context)["loaded_params"] == entry(context)["added_params"] > 0


@MODELS
def test_an_adapter_alone_gives_what_peft_gives(build, tmp_path):
    base = build()
    source = folder(tmp_path / "adapter", adapted(base))
    context = run(copy.deepcopy(base), source, {"lora": {}})
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    assert torch.equal(output(context.model), output(theirs))
    assert not torch.equal(output(context.model), output(base))
    assert all(p.requires_grad is ("lora_" in n) for n, p in context.model.named_parameters())
    assert context.metadata["loading_strategy"] == "lora"
    assert sorted(context.metadata["transferred_params"]) == sorted(context.metadata["added_params"])

    other = peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(tmp_path / "adapter"), copy.deepcopy(base))
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    peft.set_peft_model_state_dict(other, {n.removeprefix("base_model.model."): v for n, v in weights.items()})
    assert torch.equal(output(context.model), output(other))


@MODELS
def test_merged_adapters_leave_a_model_without_adapters(build, tmp_path):
    base = build()
    source, model = folder(tmp_path / "adapter", adapted(base)), copy.deepcopy(base)
    modules, parameters = list(model.modules()), [id(parameter) for parameter in model.parameters()]
    context = run(model, source, {"lora": {"merge": True}})
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").merge_and_unload()
    assert torch.equal(output(model), output(theirs))
    assert [id(parameter) for parameter in model.parameters()] == parameters
    assert list(model.modules()) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert "added_params" not in context.metadata
    assert entry(context)["merged"]
    assert all(name in model.state_dict() for name in context.metadata["transferred_params"])


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"},
        {"bias": "lora_only"},
        {"modules_to_save": ["head"]},
        {"target_modules": ["embed", "q"]},
        {"target_modules": "all-linear"},
        {"target_modules": r"blocks\.1\..*"},
        {"use_rslora": True},
        {"use_dora": True, "target_modules": ["q", "embed"]},
        {"rank_pattern": {"blocks.1.q": 2}, "alpha_pattern": {"blocks.0.v": 3}},
        {"lora_bias": True},
        {"layers_to_transform": [1], "layers_pattern": "blocks"},
    ],
    ids=lambda settings: "-".join(map(str, settings)),
)
def test_every_setting_of_a_saved_adapter_is_kept(settings, tmp_path):
    base = network()
    theirs = adapted(base, **settings)
    with torch.no_grad():
        for parameter in theirs.parameters():
            if parameter.requires_grad:
                parameter.add_(0.1)
    source = folder(tmp_path / "adapter", theirs)
    model = run(copy.deepcopy(base), source, {"lora": {}}).model
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter", is_trainable=True)
    assert torch.equal(output(model), output(theirs))
    assert torch.equal(output(model), output(again))
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in again.parameters()]


@pytest.mark.parametrize(
    "settings",
    [
        {"bias": "all"},
        {"modules_to_save": ["head"]},
        {"target_modules": ["embed", "q"]},
        {"target_modules": ["blocks.0.q"]},
    ],
    ids=lambda settings: "-".join(map(str, settings)),
)
def test_names_and_shapes_tell_what_a_checkpoint_with_adapters_has(settings, tmp_path):
    theirs = adapted(network(), **settings)
    stages = saved(tmp_path / "a.ckpt", theirs.state_dict()), {"weightsOnly": {}}
    model = run(network(), *stages, {"lora": {"alpha": 16}}).model
    assert torch.equal(output(model), output(theirs))


@pytest.mark.parametrize("layer", [torch.nn.Conv2d(2, 3, 3), torch.nn.Conv1d(2, 3, 3), torch.nn.Embedding(5, 4)])
def test_layers_of_other_kinds_are_adapted(layer, tmp_path):
    base = torch.nn.ModuleDict({"layer": layer})
    theirs = adapted(base, target_modules=["layer"])
    source = folder(tmp_path / "adapter", theirs)
    model = run(copy.deepcopy(base), source, {"lora": {}}).model
    own, other = model.state_dict(), theirs.state_dict()
    assert all(torch.equal(own[n.removeprefix("base_model.model.")], other[n]) for n in other)


def test_attention_is_adapted_as_a_whole(tmp_path):
    base = torch.nn.ModuleDict({"attention": torch.nn.MultiheadAttention(8, 2)})
    theirs = adapted(base, target_modules=["attention"])
    both = saved(tmp_path / "a.ckpt", theirs.state_dict())
    model = run(copy.deepcopy(base), both, {"weightsOnly": {}}, {"lora": {"alpha": 16}}).model
    x = torch.randn(3, 1, 8)
    assert torch.equal(model["attention"](x, x, x)[0], theirs.base_model.model["attention"](x, x, x)[0])


def test_adapters_that_torch_would_pass_by_are_warned_of():
    encoder = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    context = run(torch.nn.ModuleDict({"encoder": encoder}), {"lora": {"targets": ["linear1"]}})
    assert "set_fastpath_enabled(False)" in context.metadata["warnings"][0]
    theirs = adapted(torch.nn.ModuleDict({"encoder": encoder}), target_modules=["linear2"]).eval()
    x, layer = torch.randn(2, 3, 8), theirs.base_model.model["encoder"]
    with torch.no_grad(), theirs.disable_adapter():
        without = layer(x)
    with torch.no_grad():
        assert torch.equal(layer(x), without)  # what is warned of
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert not torch.equal(layer(x), without)
            assert "warnings" not in run(theirs, {"lora": {}}).metadata
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_merged_attention_trains_as_it_did(tmp_path):
    base = torch.nn.ModuleDict({"attention": torch.nn.MultiheadAttention(8, 2), "head": torch.nn.Linear(8, 2)})
    base["head"].weight.requires_grad_(False)
    theirs = adapted(base, target_modules=["attention"])
    source = folder(tmp_path / "adapter", theirs)
    model = run(copy.deepcopy(base), source, {"lora": {"merge": True}}).model
    x = torch.randn(3, 1, 8)
    merged = theirs.merge_and_unload()
    assert torch.equal(model["attention"](x, x, x)[0], merged["attention"](x, x, x)[0])
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        name: p.requires_grad for name, p in base.named_parameters()
    }


def test_adapters_of_a_model_in_half_precision_are_whole_as_peft_has_them(tmp_path):
    base = network().bfloat16()
    source = folder(tmp_path / "adapter", adapted(base))
    model = run(copy.deepcopy(base), source, {"lora": {}}).model
    theirs = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter")
    assert {p.dtype for n, p in model.named_parameters() if "lora_" in n} == {torch.float32}
    assert torch.equal(output(model), output(theirs))


def test_what_transformers_saves_then_is_an_adapter_that_peft_and_we_load(tmp_path):
    base = language_model()
    theirs = adapted(base)
    model = run(copy.deepcopy(base), folder(tmp_path / "adapter", theirs), {"lora": {}}).model
    model.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("model*"))
    again = peft.PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "again")
    assert torch.equal(output(again), output(theirs))
    ours = run(copy.deepcopy(base), {"local": {"path": str(tmp_path / "again")}}, {"lora": {}}).model
    assert torch.equal(output(ours), output(theirs))


def test_adapters_go_beside_weights_that_were_quantized_before(tmp_path):
    pytest.importorskip("torchao", reason="torchao is not installed")
    base = network()
    both = saved(tmp_path / "a.ckpt", adapted(base).state_dict())
    quantized = {"freezing": {"layers": ["blocks"]}}, {"quantize": {"layers": ["blocks"]}}
    model = run(base, both, {"weightsOnly": {}}, *quantized, {"lora": {"alpha": 16}}).model
    output(model)
    model.train()(TOKENS).sum().backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == {
        n for n in model.state_dict() if "lora_" in n
    }


# Models that the program has adapted itself


@MODELS
@pytest.mark.parametrize("content", ["base", "both", "adapter"])
def test_a_model_with_adapters_keeps_them_and_gets_their_values(build, content, tmp_path):
    base = build()
    theirs, model = adapted(base), adapted(build())
    if content == "adapter":
        model.base_model.model.load_state_dict(adapted(base).base_model.model.state_dict())
    before = dict(model.named_parameters())
    stages = {
        "base": [saved(tmp_path / "a.ckpt", base.state_dict()), {"weightsOnly": {}}],
        "both": [saved(tmp_path / "b.ckpt", theirs.state_dict()), {"weightsOnly": {}}],
        "adapter": [folder(tmp_path / "adapter", theirs)],
    }[content]
    context = run(model, *stages, {"lora": {"rank": 4, "alpha": 16}})
    assert {n: id(p) for n, p in model.named_parameters()} == {n: id(p) for n, p in before.items()}
    assert not context.metadata["added_params"]
    if content == "base":
        with model.disable_adapter():
            assert torch.equal(output(model), output(base))
        assert set(context.metadata["initial_params"]) == {n for n in before if "lora_" in n}
        assert set(context.metadata["initial_params"].values()) == {"not in the checkpoint"}
    else:
        assert torch.equal(output(model), output(theirs))


def test_adapters_below_a_module_of_ones_own_are_found(tmp_path):
    theirs = torch.nn.ModuleDict({"net": adapted(network())})
    source = saved(tmp_path / "a.ckpt", theirs.state_dict())
    for model in (torch.nn.ModuleDict({"net": adapted(network())}), torch.nn.ModuleDict({"net": network()})):
        run(model, source, {"weightsOnly": {}}, {"lora": {"alpha": 16}})
        assert torch.equal(output(model["net"]), output(theirs["net"]))


@pytest.mark.parametrize("wanted", [{"rank": 8}, {"alpha": 4}])
def test_a_model_with_other_adapters_than_the_pipeline_asks_for_is_refused(wanted, tmp_path):
    stages = saved(tmp_path / "a.ckpt", network().state_dict()), {"weightsOnly": {}}
    with pytest.raises(CheckpointConfigError, match=r"the model has adapters with (r 4|lora_alpha 16), lora says"):
        run(adapted(network()), *stages, {"lora": wanted})


def test_a_model_with_other_adapters_than_the_checkpoint_is_refused(tmp_path):
    source = folder(tmp_path / "adapter", adapted(network(), lora_alpha=3))
    with pytest.raises(CheckpointConfigError, match=r"adapters with lora_alpha 16, adapter_config.json says 3"):
        run(adapted(network()), source, {"lora": {}})


# What targets name


@pytest.mark.parametrize(
    ("targets", "layers"),
    [
        (["q"], ["blocks.0.q", "blocks.1.q"]),
        (["blocks.1.q"], ["blocks.1.q"]),
        (["blocks.*.v", "head"], ["blocks.0.v", "blocks.1.v", "head"]),
        (["blocks.0"], ["blocks.0.q", "blocks.0.v"]),
        (["0.*"], ["blocks.0.q", "blocks.0.v"]),
        (["all-linear"], ["blocks.0.q", "blocks.0.v", "blocks.1.q", "blocks.1.v", "head"]),
        (["embed"], ["embed"]),
    ],
)
def test_targets_name_ends_of_paths_and_what_lies_in_them(targets, layers, tmp_path):
    stages = saved(tmp_path / "a.ckpt", network().state_dict()), {"weightsOnly": {}}
    context = run(network(), *stages, {"lora": {"targets": targets}})
    assert sorted(entry(context)["targets"]) == layers


def test_a_layer_whose_name_ends_like_a_target_is_left_alone(tmp_path):
    base = torch.nn.ModuleDict(
        {"fc": torch.nn.Linear(2, 2), "inner": torch.nn.ModuleDict({"fc": torch.nn.Linear(2, 2)})}
    )
    stages = saved(tmp_path / "a.ckpt", base.state_dict()), {"weightsOnly": {}}
    assert entry(run(base, *stages, {"lora": {"targets": ["in*"]}}))["targets"] == ["inner.fc"]


@pytest.mark.parametrize("build", [network, language_model])
def test_all_linear_is_what_peft_takes_for_it(build, tmp_path):
    stages = saved(tmp_path / "a.ckpt", build().state_dict()), {"weightsOnly": {}}
    ours = run(build(), *stages, {"lora": {"targets": ["all-linear"]}}).model
    theirs = adapted(build(), target_modules="all-linear")
    assert [f"base_model.model.{name}" for name in ours.state_dict()] == list(theirs.state_dict())


def test_without_targets_peft_knows_those_of_known_models(tmp_path):
    stages = saved(tmp_path / "a.ckpt", language_model().state_dict()), {"weightsOnly": {}}
    layers = entry(run(language_model(), *stages, {"lora": {}}))["targets"]
    assert {name.rpartition(".")[2] for name in layers} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("targets", "words"),
    [
        (["q", "k"], "nothing to adapt at 'k'"),
        (["block.0.q"], r"nothing to adapt at 'block.0.q' \(did you mean 'blocks.0.q'"),
        (["norm"], r"'norm' \(there is no layer in it that an adapter can be put beside\)"),
    ],
)
def test_targets_that_name_nothing_are_an_error_and_leave_the_model_alone(targets, words, tmp_path):
    model = network()
    stages = saved(tmp_path / "a.ckpt", network().state_dict()), {"weightsOnly": {}}
    modules = list(model.modules())
    with pytest.raises(NothingMatchedError, match=words):
        run(model, *stages, {"lora": {"targets": targets}})
    assert list(model.modules()) == modules


# What does not fit


def broken(model: Any, source: Any, lora: dict[str, Any], *, strategy: bool = True, **context: Any) -> CheckpointError:
    """The error; the model has the modules and the switches that it had."""
    modules, trained = list(model.modules()), [parameter.requires_grad for parameter in model.parameters()]
    own = {name for module in model.modules() for name in vars(module)}
    with pytest.raises(CheckpointError) as caught:
        run(model, source, *([{"weightsOnly": {}}] if strategy else []), {"lora": lora}, **context)
    assert list(model.modules()) == modules
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert {name for module in model.modules() for name in vars(module)} - own <= {"weights_initialized"}
    assert not caught.value.touched
    return caught.value


def without(state: dict[str, torch.Tensor], part: str) -> dict[str, torch.Tensor]:
    return {name: value for name, value in state.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "lora", "words"),
    [
        (lambda s: without(s, "blocks.1.v.lora_B"), {"alpha": 16}, "1 of the model are not in the checkpoint"),
        (lambda s: s, {"alpha": 16, "targets": ["q"]}, "4 of the checkpoint are not in the model"),
        (
            lambda s: without(s, "q.lora"),
            {"alpha": 16, "targets": ["q", "v"]},
            "4 of the model are not in the checkpoint",
        ),
        (lambda s: s, {"alpha": 16, "rank": 8}, "have the ranks 4, lora asks for 8"),
        (lambda s: s, {"rank": 4}, "not the alpha that they were trained with"),
        (lambda s: s | {n.replace("default", "other"): v for n, v in s.items()}, {"alpha": 16}, "default, other"),
        (lambda s: s | {n.replace(".base_layer", ""): v for n, v in s.items()}, {"alpha": 16}, "also under the name"),
    ],
    ids=["missing", "unexpected", "other targets", "other rank", "no alpha", "two adapters", "twice"],
)
def test_adapters_of_a_checkpoint_that_do_not_fit_are_refused(change, lora, words, tmp_path):
    source = saved(tmp_path / "a.ckpt", change(adapted(network()).state_dict()))
    assert words in str(broken(network(), source, lora))


def test_adapters_that_are_left_out_leave_a_base_for_new_ones(tmp_path):
    theirs = adapted(network())
    strategy = {"weightsOnly": {"exclude": ["lora_"]}}
    context = run(network(), saved(tmp_path / "a.ckpt", theirs.state_dict()), strategy, {"lora": {"targets": ["v"]}})
    with theirs.disable_adapter():
        assert torch.equal(output(context.model), output(theirs))
    assert entry(context)["targets"] == ["blocks.0.v", "blocks.1.v"]


def test_a_module_that_is_called_as_peft_calls_its_own_keeps_its_name(tmp_path):
    inner = torch.nn.ModuleDict({"base_layer": torch.nn.Linear(2, 2), "model": torch.nn.Linear(2, 2)})
    model = torch.nn.ModuleDict({"base_model": inner})
    stages = saved(tmp_path / "a.ckpt", model.state_dict()), {"weightsOnly": {}}
    model = run(model, *stages, {"lora": {"targets": ["base_layer", "model"]}}).model
    both = saved(tmp_path / "b.ckpt", {name: value + 1 for name, value in model.state_dict().items()})
    again = torch.nn.ModuleDict({"base_model": torch.nn.ModuleDict({
        "base_layer": torch.nn.Linear(2, 2), "model": torch.nn.Linear(2, 2)})})  # fmt: skip
    run(again, both, {"weightsOnly": {}}, {"lora": {"alpha": 8}})
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, model.state_dict()[name] + 1) for name, value in again.state_dict().items())


def test_adapters_of_layers_that_the_model_does_not_have_are_named(tmp_path):
    state = {n.replace("v.", "value."): v for n, v in adapted(network()).state_dict().items() if "lora_" in n}
    error = broken(network(), saved(tmp_path / "a.ckpt", state), {"alpha": 16}, strategy=False)
    assert "adapters for 'blocks.0.value' (did you mean 'blocks.0.v'" in str(error)


def test_several_ranks_need_their_configuration(tmp_path):
    source = saved(tmp_path / "a.ckpt", adapted(network(), rank_pattern={"v": 2}).state_dict())
    assert "ranks 2, 4" in str(broken(network(), source, {"alpha": 16}))


@pytest.mark.parametrize(
    ("changed", "lora", "words"),
    [
        ({"peft_type": "IA3"}, {}, "of type 'IA3', not LORA"),
        ({"init_lora_weights": "pissa"}, {}, "changes the base when it is made"),
        ({"megatron_config": {"a": 1}, "megatron_core": "antigravity"}, {}, "asks for megatron_config"),
        ({"layer_replication": [[0, 1]]}, {}, "asks for layer_replication"),
        ({}, {"alpha": 8}, "lora says lora_alpha 8, the checkpoint's adapter_config.json 16"),
        ({}, {"rank": 2}, "lora says r 2"),
        ({"r": 8}, {}, "shape [4, 8], model has [8, 8]"),
        ({"target_modules": ["nothing"]}, {}, "peft does not adapt this model"),
        ({"r": 0}, {}, "peft does not adapt this model"),
    ],
)
def test_an_adapter_whose_configuration_does_not_fit_is_refused(changed, lora, words, tmp_path):
    source = folder(tmp_path / "adapter", adapted(network()), **changed)
    assert words in str(broken(network(), source, lora, strategy=False))


def test_a_checkpoint_without_adapters_needs_a_strategy(tmp_path):
    error = broken(network(), saved(tmp_path / "a.ckpt", network().state_dict()), {"targets": ["q"]}, strategy=False)
    assert isinstance(error, NothingMatchedError)
    assert "no stage has loaded its weights. Put a strategy such as weightsOnly before lora" in str(error)


def test_a_checkpoint_with_adapters_needs_a_strategy_for_the_rest(tmp_path):
    source = saved(tmp_path / "a.ckpt", adapted(network()).state_dict())
    assert "more than adapters" in str(broken(network(), source, {"alpha": 16}, strategy=False))


def test_an_adapter_alone_needs_no_strategy(tmp_path):
    error = broken(network(), folder(tmp_path / "adapter", adapted(network())), {})
    assert "Remove the strategy" in str(error)


def test_a_strategy_without_lora_does_not_take_an_adapter(tmp_path):
    with pytest.raises(CheckpointIncompatibleError):
        run(network(), folder(tmp_path / "adapter", adapted(network())), {"weightsOnly": {}})


def test_nothing_to_merge_is_refused(tmp_path):
    source = saved(tmp_path / "a.ckpt", network().state_dict())
    assert "no adapters that could be merged" in str(broken(network(), source, {"targets": ["q"], "merge": True}))


def test_an_optimizer_that_would_not_train_the_adapters_is_refused(tmp_path):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = copy.deepcopy(model.state_dict())
    source = saved(tmp_path / "a.ckpt", network().state_dict())
    error = broken(model, source, {"targets": ["q"]}, optimizer=optimizer)
    assert "would not train" in str(error)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_an_optimizer_of_frozen_parameters_alone_is_told_so_at_its_first_step(tmp_path):
    model = network()
    early = torch.optim.SGD(model.parameters(), lr=0.1)
    run(model, saved(tmp_path / "a.ckpt", network().state_dict()), {"weightsOnly": {}}, {"lora": {"targets": ["q"]}})
    model(TOKENS).sum().backward()
    with pytest.raises(CheckpointConfigError, match="this optimizer trains nothing"):
        early.step()
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    early.step()  # nobody is asked again


def test_a_model_on_the_meta_device_gets_its_base_first(tmp_path):
    base = network()
    with torch.device("meta"):
        model = network()
    stages = saved(tmp_path / "a.ckpt", adapted(base).state_dict()), {"weightsOnly": {}}
    context = run(model, *stages, {"lora": {"alpha": 16}})
    assert not any(parameter.is_meta for parameter in context.model.parameters())
    with torch.device("meta"):
        empty = network()
    error = broken(empty, folder(tmp_path / "adapter", adapted(base)), {}, strategy=False)
    assert "on the meta device" in str(error)


def test_a_compiled_model_is_adapted_inside(tmp_path):
    theirs = adapted(network())
    model = torch.compile(network(), backend="eager")
    stages = saved(tmp_path / "a.ckpt", theirs.state_dict()), {"weightsOnly": {}}
    assert output(model).shape == (1, 11, 3)  # compiled by now
    run(model, *stages, {"lora": {"alpha": 16}})
    assert torch.equal(output(model), output(theirs))
    assert "_orig_mod.blocks.0.q.lora_A.default.weight" in model.state_dict()


def test_a_wrapped_model_is_refused(tmp_path):
    model = torch.nn.DataParallel(network())
    source = saved(tmp_path / "a.ckpt", model.state_dict())
    assert "wrapped or sharded already" in str(broken(model, source, {"targets": ["q"]}))


def test_where_peft_is_not_installed_nothing_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("preheat.health._importable", lambda module: module != "peft")
    with pytest.raises(CheckpointConfigError, match="LoRAModifier needs peft: pip install peft"):
        run(network(), {"local": {"path": str(tmp_path / "nothing.ckpt")}}, {"weightsOnly": {}}, {"lora": {}})


def test_after_a_strategy_that_failed_an_adapter_does_not_pass_for_the_weights(tmp_path):
    stages = saved(tmp_path / "a.ckpt", {"x.weight": torch.ones(1)}), {"weightsOnly": {}}, {"lora": {"targets": ["q"]}}
    pipeline = CheckpointPipeline(stages, continue_on_error=True)
    with pytest.raises(NoWeightsError):
        pipeline.execute_sync(CheckpointContext(model=network()))


def test_new_adapters_go_into_a_model_that_has_no_checkpoint():
    context = run(network(), {"lora": {"targets": ["q"], "modules_to_save": ["head"]}})
    trained = {name for name, parameter in context.model.named_parameters() if parameter.requires_grad}
    assert {name.partition(".")[0] for name in trained} == {"blocks", "head"}
    assert entry(context)["total_frozen_params"] == 13


def test_settings_are_checked_when_they_are_given():
    with pytest.raises(CheckpointConfigError, match="give a list, such as \\[q_proj\\]"):
        LoRAModifier(targets="q_proj")
    with pytest.raises(CheckpointConfigError, match="below the minimum 1"):
        LoRAModifier(rank=0)


def test_an_adapter_without_its_configuration_is_loaded_by_names_and_shapes(tmp_path):
    base = network()
    theirs = adapted(base)
    theirs.save_pretrained(tmp_path / "adapter")
    weights = load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    save_file(weights, tmp_path / "alone.safetensors")
    model = run(
        copy.deepcopy(base), {"local": {"path": str(tmp_path / "alone.safetensors")}}, {"lora": {"alpha": 16}}
    ).model
    assert torch.equal(output(model), output(theirs))
