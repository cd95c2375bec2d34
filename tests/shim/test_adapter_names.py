"""Names of adapters and of their base: whatever wraps either side, each finds its own, or nothing is guessed."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from preheat.modifiers.adapters.names import paired, received, renamed

PARTS = st.sampled_from(["q", "v", "0", "model", "module", "base_model", "base_layer", "original_module", "default"])
MODULES = st.sets(st.lists(PARTS, min_size=1, max_size=4).map(".".join), min_size=1, max_size=6)
PREFIXES = st.sampled_from(["", "base_model.model.", "module.", "module.base_model.model."])


def leaves(modules: set[str]) -> list[str]:
    """Those in which no other lies, as layers are."""
    return sorted(each for each in modules if not any(other.startswith(f"{each}.") for other in modules))


def names_of(layers: list[str], adapted: set[str], prefix: str = "", adapter: str = ".default") -> dict[str, str]:
    """What a model with adapters calls its tensors, by what the plain one calls them, or peft's file."""
    base = {f"{each}.weight": f"{prefix}{each}.{'base_layer.' * (each in adapted)}weight" for each in layers}
    own = {f"{each}.{kind}.weight": f"{prefix}{each}.{kind}{adapter}.weight"
           for each in sorted(adapted) for kind in ("lora_A", "lora_B")}  # fmt: skip
    return base | own


@given(MODULES, st.data(), PREFIXES, st.sampled_from(["", "base_model.model."]))
def test_a_checkpoint_with_adapters_finds_a_plain_model_and_then_an_adapted_one(modules, data, prefix, own):
    layers = leaves(modules)
    adapted = data.draw(st.sets(st.sampled_from(layers), min_size=1))
    checkpoint = names_of(layers, adapted, prefix)
    theirs, plain = paired(checkpoint.values(), [f"{each}.weight" for each in layers])
    changed = renamed(theirs, plain)
    for name, called in checkpoint.items():
        if ".lora_" not in name:
            assert changed.get(called, called) == name
    model = names_of(layers, adapted, own)
    theirs, ours = paired(checkpoint.values(), model.values())
    assert received(theirs, ours, whole=False) == {
        called: model[name] for name, called in checkpoint.items() if ".lora_" in name
    }


@given(MODULES, st.data(), st.sampled_from(["", "base_model.model."]))
def test_a_file_of_adapters_finds_the_modules_and_what_they_become(modules, data, own):
    layers = leaves(modules)
    adapted = data.draw(st.sets(st.sampled_from(layers), min_size=1))
    file = {n: c for n, c in names_of(layers, adapted, "base_model.model.", "").items() if ".lora_" in n}
    model = names_of(layers, adapted, own)
    theirs, ours = paired(file.values(), model.values())
    assert received(theirs, ours, whole=True) == {called: model[name] for name, called in file.items()}


def test_attention_magnitudes_embeddings_and_whole_modules_have_their_own_spelling():
    live = [
        "a.base_layer.in_proj_weight", "a.lora_A.default.weight", "a.base_layer.out_proj.base_layer.weight",
        "a.base_layer.out_proj.lora_A.default.weight", "q.lora_A.default.weight",
        "q.lora_magnitude_vector.default.weight", "e.base_layer.weight", "e.lora_embedding_A.default",
        "head.original_module.0.weight", "head.modules_to_save.default.0.weight",
    ]  # fmt: skip
    file = [
        "a.lora_A.weight", "a.base_layer.out_proj.lora_A.weight", "q.lora_A.weight", "q.lora_magnitude_vector",
        "e.lora_embedding_A", "head.0.weight",
    ]  # fmt: skip
    plain = ["a.in_proj_weight", "a.out_proj.weight", "q.weight", "e.weight", "head.0.weight"]
    theirs, own = paired(live, plain)
    assert renamed(theirs, own) == {live[0]: plain[0], live[2]: plain[1], live[6]: plain[3], live[8]: plain[4]}
    theirs, own = paired(file, live)
    assert received(theirs, own, whole=True) == dict(
        zip(file, [live[1], live[3], live[4], live[5], live[7], live[9]], strict=True)
    )
