"""Stack-Wise's configurations, and what its programs call: progressive checkpoints, racks and stacks."""

from __future__ import annotations

import re

from preheat.migrate.choices import NewestTimestamp, ThatFile
from preheat.migrate.migration import Draft, System
from preheat.migrate.settings import Key, Settings
from preheat.migrate.stackwise.adapters import adapters, adapters_on
from preheat.migrate.traced import Traced

_ADAPTERS = "`lora`"


def _rows(names: str, becomes: str, advice: str = "") -> tuple[Key, ...]:
    return tuple(Key(name, becomes, advice) for name in names.split())


KEYS = (
    Key("restore_from_checkpoint", "a `local` source; `warmStart: {parts: [stacks]}`"),
    Key("load_rack", "a `local` source; `weightsOnly`, embeddings and head too"),
    Key("load_stack.path", "a `local` source; `weightsOnly` of that part"),
    Key("load_stack.stack_idx", "`addPrefix: stacks.N.`, `parts: [stacks.N]`"),
    Key("(training.)checkpoint_dir", "if nothing is called: `root` of a `run`, `select: latest`, `layout: stackwise`"),
    Key(
        "training.save_interval",
        "nothing",
        "is read by nobody in Stack-Wise: say when to save where you call preheat.save",
    ),
    Key("(training.)progressive.trunk_strategy", "frozen: `freezing` of the stacks before the current; qlora: `lora`"),
    Key("(training.)progressive.new_stack_precision", "`precision` of the current stack"),
    Key("(training.)qlora.enabled", _ADAPTERS),
    Key("(training.)qlora.rank", "`lora.rank`"),
    Key("(training.)qlora.alpha", "`lora.alpha`; twice the rank if it is not there"),
    Key("(training.)qlora.dropout", "`lora.dropout`"),
    *_rows("(training.)progressive.qlora_enabled training.qlora_enabled", _ADAPTERS),
    Key("(training.)progressive.qlora_rank", "`lora.rank`"),
    Key("(training.)progressive.qlora_alpha", "`lora.alpha`"),
    *_rows(
        "(training.)qlora.lr (training.)qlora.learning_rate training.qlora_lr training.current_block_lr",
        "the optimizer's",
        "is the optimizer's: give adapters a group of their own",
    ),
    *_rows(
        "(training.)qlora.strategy (training.)qlora.rank_pattern (training.)qlora.alpha_pattern "
        "(training.)qlora.configs (training.)progressive.qlora_strategy (training.)progressive.qlora_rank_pattern "
        "(training.)progressive.qlora_alpha_pattern (training.)progressive.qlora_configs",
        "`lora` with one rank",
        "gives stacks ranks of their own, and `lora` has one for all its targets: the base rank is taken. For others, "
        "put your own adapters into the model before it is loaded",
    ),
    *_rows(
        "(training.)progressive.progressive_qlora (training.)progressive.progressive_qlora_rank "
        "(training.)progressive.progressive_qlora_alpha (training.)qlora.progressive_enabled "
        "(training.)qlora.progressive_rank (training.)qlora.progressive_alpha",
        "nothing",
        "would put second adapters beside the first whenever a stack is added, which Stack-Wise never gets to: its "
        "method is not there. Merge the first ones (`lora: {merge: true}`) before new ones are made",
    ),
    *_rows(
        "training.quantization_enabled training.quantization_type",
        "`quantize`",
        "quantizes in Stack-Wise's own trainer. Here it is a stage: `quantize: {layers: [...], weights: int8}` behind "
        "`freezing`; what it can depends on torchao",
    ),
    *_rows(
        "(training.)progressive.cache_activations training.cache_activations training.activation_cache_dir "
        "training.save_activations training.cache_mode",
        "nothing",
        "is no weight: what a checkpoint holds of it stays in the source",
    ),
    *_rows("(training.)max_checkpoints (training.)keep_last", "`preheat prune --keep-last`"),
    *_rows(
        "(training.)progressive.enabled (training.)progressive.max_stacks (training.)progressive.building_mode",
        "nothing",
        "is about the model that your program builds; Preheat fills what is there",
    ),
    *_rows(
        "model.tokenizer_embedding.freeze_embeddings training.fusion_mode",
        "`freezing`",
        "freezes parts of the model where your program builds it. As a stage it is `freezing: {layers: [embeddings]}`",
    ),
    Key("training.save_fused_checkpoints", "saving", "says what is saved: see preheat.save"),
    Key("training.run_id", "nothing", "names folders of logs in Stack-Wise, and no checkpoint"),
)
SIGNS = (
    "training.progressive", "progressive", "restore_from_checkpoint", "load_rack", "load_stack", "training.qlora",
    "training.checkpoint_dir", "model.architecture.blocks_per_stack", "training.qlora_enabled", "training.total_blocks",
)  # fmt: skip
TOPICS = ("training.progressive.qlora", "training.qlora", "load_stack.", "progressive.qlora", "qlora.")

#: A rack's file calls embeddings after the builder's field, and has no last norm.
_RACK = {"rename": [{"pattern": r"^embeddings\.", "replacement": "embedding."}], "keep": [r"^ln_f\."]}
#: A stack's label of precision, as what torch calls it; the weights themselves are float32 in Stack-Wise.
_PRECISIONS = {"half": "float16", "float16": "float16", "bfloat16": "bfloat16", "full": "float32"}


def rules(settings: Settings, draft: Draft) -> None:
    """What the program calls; if it is not said, what it would find with list_checkpoints()."""
    restored, rack = settings["restore_from_checkpoint"], settings["load_rack"]
    stack = settings["load_stack.path"]
    if restored:
        _restored(settings, draft, restored)
    elif rack:
        _file(draft, rack)
        draft.stage("weightsOnly", _RACK, rack)
        draft.remark(
            "has neither the last norm, which keeps its initial value, nor the model's name of embeddings", rack
        )
    elif stack:
        _one_stack(settings, draft, stack)
    else:
        _newest(settings, draft)
    _retention(settings, draft)
    _precision(settings, draft, restored)
    _trunk(settings, draft, restored)


def _retention(settings: Settings, draft: Draft) -> None:
    names = ("max_checkpoints", "keep_last")
    kept = settings.first(*names, *(f"training.{name}" for name in names))
    folder = settings.first("training.checkpoint_dir", "checkpoint_dir")
    draft.remark(
        f"`preheat prune {folder or 'DIR'} --keep-last {kept}` says what would go, and removes it with --yes; never "
        "the last good one",
        kept,
    )


def _restored(settings: Settings, draft: Draft, path: Traced) -> None:
    _file(draft, path)
    on = adapters_on(settings)
    draft.stage("weightsOnly" if on else "warmStart", {"parts": path.made(["stacks"])}, path)
    draft.remark(
        "gives back the weights alone, as in Stack-Wise, because adapters that are new have no state of an optimizer"
        if on
        else "gives back what the file holds, the optimizer's state too, where Stack-Wise restores the stacks alone. "
        "Of a file that was saved without an optimizer take `weightsOnly: {parts: [stacks]}`",
        path,
    )
    draft.remark(
        "embeddings and head are in no progressive checkpoint: outside of `parts` everything keeps its initial value",
        path,
    )


def _file(draft: Draft, path: Traced) -> None:
    draft.choice = ThatFile(str(path))
    draft.stages.append(draft.place(path))


def _one_stack(settings: Settings, draft: Draft, path: Traced) -> None:
    index = settings["load_stack.stack_idx"]
    _file(draft, path)
    stack = (index or path).made(f"stacks.{index if index else 0}")
    draft.stage("weightsOnly", {"addPrefix": stack.made(f"{stack}."), "parts": stack.made([str(stack)])}, path)


def _newest(settings: Settings, draft: Draft) -> None:
    folder = settings.first("training.checkpoint_dir", "checkpoint_dir")
    if folder is None:
        return
    draft.choice = NewestTimestamp(str(folder))
    source = {"root": draft.place(folder), "select": folder.made("latest"), "layout": folder.made("stackwise")}
    draft.stages.append({"run": folder.made(source)})
    draft.stage("weightsOnly", {"parts": folder.made(["stacks"])}, folder)
    draft.remark(
        "says where checkpoints are, and not which is loaded: that is in your program. The newest is taken, as with "
        "restore_from_checkpoint(list_checkpoints()[0]['path']); name another call as in `preheat migrate CONFIG "
        "load_rack=checkpoints/rack.pt`, restore_from_checkpoint=PATH, or load_stack.path=PATH load_stack.stack_idx=0",
        folder,
    )


def _current_stack(restored: Traced | None) -> int | None:
    """Which stack was being trained when a progressive checkpoint was saved, by its name; those before are the "
    "trunk."""
    found = re.search(r"progressive_stack_(\d+)\.pt$", str(restored)) if restored else None
    return int(found[1]) if found else None


def _precision(settings: Settings, draft: Draft, restored: Traced | None) -> None:
    label = settings.first("training.progressive.new_stack_precision", "progressive.new_stack_precision")
    current, dtype = _current_stack(restored), _PRECISIONS.get(str(label))
    if label is None or not draft.stages:
        return
    if dtype is None or current is None:
        draft.remark(
            "is a label, and the weights are float32 in Stack-Wise whatever it says. To have it, add "
            "`precision: {rules: [{layers: [stacks.N], dtype: bfloat16}]}` for the stack that is new",
            label,
        )
    elif dtype != "float32":
        rule = {"layers": [label.made(f"stacks.{current}")], "dtype": label.made(dtype)}
        draft.stage("precision", {"rules": [rule]}, label)
    else:
        draft.remark("is what weights are anyway", label)


def _trunk(settings: Settings, draft: Draft, restored: Traced | None) -> None:
    strategy = settings.first("training.progressive.trunk_strategy", "progressive.trunk_strategy")
    current = _current_stack(restored)
    if strategy and str(strategy) == "frozen" and draft.stages:
        if current is None:
            draft.remark(
                "freezes the stacks before the new one, and how many those are is in your program: add "
                "`freezing: {layers: [stacks.0, ...]}`",
                strategy,
            )
        elif current == 0:
            draft.remark("has no stack before the first to freeze", strategy)
        else:
            layers = [strategy.made(f"stacks.{number}") for number in range(current)]
            draft.stage("freezing", {"layers": layers}, strategy)
    adapters(settings, draft)


SYSTEM = System("stackwise", KEYS, SIGNS, TOPICS, rules)
