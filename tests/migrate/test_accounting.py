"""No key that is about checkpoints vanishes: it is in the resource, or in a remark that says why not."""

import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from migrate.configurations import CONFIGS, NAMES

from preheat.migrate import SYSTEMS, migrate
from preheat.migrate.reading import read
from preheat.migrate.settings import Settings
from preheat.migrate.traced import traces, untraced
from preheat.migrate.writing import resource_text

#: Values that a key's own grammar wants; all others are texts.
VALUES = {
    "BUCKET.ENABLED": True, "qlora.enabled": True, "qlora_enabled": True, "AUTO_RESUME": True, "is_frozen": True,
    "load_weights_only": True, "transfer_learning": True, "states": True, "tendencies": True, "load_optim": True,
    "RESUME_SKIP_OPTIMIZER": True, "interpolate_rel_pos_bias": True, "strict": True, "DEPTHS": [2, 1], "rank": 8,
    "alpha": 16, "qlora_rank": 8, "qlora_alpha": 16, "stack_idx": 1, "EVAL_MODE": True, "cache_activations": True,
    "patterns_to_rename": [{"src": "a", "dst": "b"}], "drop_params": ["head."], "drop_buffers": ["index"],
    "uri": "hf://org/model@v1?filename=model.th", "expected_sha256": "ab" * 32, "timeout": 60, "max_retries": 4,
    "trunk_strategy": "frozen", "new_stack_precision": "half", "submodules_to_freeze": ["encoder"],
    "restore_from_checkpoint": "progressive_stack_2.pt", "continue_on_error": True,
    "source": {"_target_": "anemoi.training.checkpoint.sources.LocalSource", "path": "/a.ckpt"},
    "loading": {"_target_": "anemoi.training.checkpoint.loading.strategies.WeightsOnlyLoader"},
    "stages": {"_target_": "anemoi.training.checkpoint.sources.LocalSource", "path": "/a.ckpt"},
    "modifiers": {"_target_": "anemoi.training.train.modify.FreezingModelModifier", "submodules_to_freeze": ["a"]},
    "callbacks": {"kind": "noether.core.callbacks.CheckpointCallback"},
    "kind": "noether.core.initializers.PreviousRunInitializer",
    "initializers": {"kind": "noether.core.initializers.PreviousRunInitializer", "run_id": "r"},
}  # fmt: skip


def value_of(path):
    name = path.removesuffix("[]").rpartition(".")[2]
    return next((value for key, value in VALUES.items() if path.removesuffix("[]").endswith(key)), f"a-{name.lower()}")


def put(document, path, value):
    """Set a key of a table in a document, with one item in each list and `part` for any name."""
    *parents, last = path.replace("*", "part").replace("(", "").replace(")", "").split(".")
    inner = document
    for name in parents:
        inner = inner.setdefault(name.removesuffix("[]"), [{}] if name.endswith("[]") else {})
        inner = inner[0] if isinstance(inner, list) else inner
        if not isinstance(inner, dict):
            return
    if last.endswith("[]"):
        there = inner.setdefault(last.removesuffix("[]"), [{}])
        if isinstance(there, list) and isinstance(value, dict):
            there[0] |= value
        elif not isinstance(value, dict):
            inner[last.removesuffix("[]")] = value if isinstance(value, list) else [value]
    else:
        inner[last] = value


def unsaid(system, document):
    """Keys that are neither in the resource nor in a remark."""
    migration, _ = migrate(document, system)
    written = {key for trace in traces([migration.resource, migration.stages]) for key in trace.keys}
    spoken = {key for remark in migration.remarks for key in remark.keys}
    made = str([migration.document, untraced(migration.stages)])
    assert all(remark.text for remark in migration.remarks)
    return [
        leaf
        for leaf, value in Settings(document).leaves()
        if leaf not in written | spoken
        and not any(leaf.startswith((f"{key}.", f"{key}[")) for key in spoken)
        and not leaf.endswith("._target_")  # which is the stage's name now
        and str(value) not in made
    ]


TABLES = [(system.name, key.path) for system in SYSTEMS.values() for key in system.keys]


@pytest.mark.parametrize(("system", "path"), TABLES)
def test_a_key_of_a_table_alone_is_said(system, path):
    document = {}
    put(document, path, value_of(path))
    assert unsaid(system, document) == []


#: What the four systems' configurations say of checkpoints, by their documents and their code.
SAID = {
    "anemoi": """
        training.run_id training.fork_run_id system.input.warm_start hardware.files.warm_start
        training.load_weights_only training.transfer_learning resume_from_checkpoint training.resume_from_checkpoint
        training.submodules_to_freeze training.update_ds_stats_on_ckpt_load.states
        training.update_ds_stats_on_ckpt_load.tendencies training.check_variables_compatibility
        training.allow_variable_subset training.model_modifier.modifiers[0] training.checkpoint_pipeline.stages[0]
        training.checkpoint_pipeline.async_execution training.checkpoint_pipeline.continue_on_error
        training.checkpoint_pipeline.cache_dir training.checkpoint_pipeline.max_retries
        training.checkpoint_pipeline.timeout training.checkpoint.source training.checkpoint.loading
        training.checkpoint.modifiers[0]""",
    "linnaeus": """
        MODEL.PRETRAINED MODEL.PRETRAINED_SOURCE MODEL.PRETRAINED_CONVNEXT MODEL.PRETRAINED_ROPEVIT
        MODEL.pretrained_ckpt_handling_metadata.drop_params MODEL.pretrained_ckpt_handling_metadata.drop_buffers
        MODEL.pretrained_ckpt_handling_metadata.interpolate_rel_pos_bias
        MODEL.pretrained_ckpt_handling_metadata.supports_module_prefix MODEL.pretrained_ckpt_handling_metadata.strict
        TRAIN.AUTO_RESUME MODEL.RESUME TRAIN.RESUME TRAIN.RESUME_SKIP_OPTIMIZER TRAIN.PRESERVE_CHECKPOINT_SCHEDULE
        EVAL_MODE ENV.INPUT.CACHE_DIR ENV.INPUT.BUCKET.ENABLED ENV.INPUT.BUCKET.NAME ENV.INPUT.BUCKET.BUCKET
        ENV.INPUT.BUCKET.REMOTE ENV.INPUT.BUCKET.PATH_PREFIX ENV.INPUT.BUCKET.APP_KEY_ID ENV.INPUT.BUCKET.APP_KEY
        SCHEDULE.CHECKPOINT.INTERVAL_EPOCHS SCHEDULE.CHECKPOINT.INTERVAL_STEPS SCHEDULE.CHECKPOINT.INTERVAL_FRACTION
        SCHEDULE.CHECKPOINT.KEEP_TOP_N SCHEDULE.CHECKPOINT.KEEP_LAST_N CHECKPOINT.KEEP_TOP_N CHECKPOINT.KEEP_LAST_N
        ENV.OUTPUT.BUCKET.ENABLED ENV.OUTPUT.BUCKET.BUCKET ENV.OUTPUT.BUCKET.REMOTE""",
    "noether": """
        resume_run_id resume_stage_name resume_checkpoint stage_name output_path model.initializers[0].kind
        model.initializers[0].run_id model.initializers[0].model_name model.initializers[0].stage_name
        model.initializers[0].checkpoint model.initializers[0].checkpoint_tag model.initializers[0].model_info
        model.initializers[0].keys_to_remove model.initializers[0].patterns_to_remove
        model.initializers[0].patterns_to_rename model.initializers[0].patterns_to_instantiate
        model.initializers[0].pop_ckpt_kwargs_keys model.initializers[0].load_optim model.is_frozen
        model.encoder.is_frozen trainer.start_at_epoch trainer.callbacks[0].kind callbacks[0].kind
        resolve_checkpoint.uri resolve_checkpoint.expected_sha256 resolve_checkpoint.verify_load
        resolve_checkpoint.min_free_bytes""",
    "stackwise": """
        training.checkpoint_dir training.save_interval restore_from_checkpoint load_rack load_stack.path
        load_stack.stack_idx training.qlora.enabled training.qlora.rank training.qlora.alpha training.qlora.dropout
        training.qlora.lr training.qlora.strategy training.qlora.rank_pattern training.qlora.alpha_pattern
        training.qlora.configs training.qlora.progressive_enabled training.progressive.qlora_enabled
        training.progressive.trunk_strategy training.progressive.new_stack_precision
        training.progressive.cache_activations max_checkpoints keep_last""",
}


@pytest.mark.parametrize("system", SAID)
def test_the_tables_have_every_key_of_the_systems(system):
    keys = SYSTEMS[system].keys
    assert [path for path in SAID[system].split() if not any(key.covers(path) for key in keys)] == []


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_whatever_keys_of_a_table_are_set_each_is_said(data):
    system = data.draw(st.sampled_from(sorted(SYSTEMS)))
    paths = [key.path for key in SYSTEMS[system].keys]
    document = {}
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=2, max_size=14, unique=True)):
        put(document, path, value_of(path))
    assert unsaid(system, document) == []


@pytest.mark.parametrize("name", NAMES)
def test_a_key_that_nobody_knows_is_said_where_it_speaks_of_checkpoints(name):
    document = read(CONFIGS / f"{name}.yaml").document
    document["training_extra"] = {"pretrained_thing": "x", "learning_rate": 0.1, "gradient_checkpointing": True}
    migration, _ = migrate(document)
    spoken = {key: remark.text for remark in migration.remarks for key in remark.keys}
    assert "not known here" in spoken["training_extra.pretrained_thing"]
    assert not {"training_extra.learning_rate", "training_extra.gradient_checkpointing"} & set(spoken)


@pytest.mark.parametrize("name", NAMES)
def test_every_line_with_a_value_says_where_it_comes_from(name):
    found = read(CONFIGS / f"{name}.yaml")
    migration, _ = migrate(found.document, unresolved=found.unresolved)
    text = resource_text(migration, "config.yaml").partition("spec:\n")[2].partition("#\n# What")[0]
    silent = [line for line in text.splitlines() if re.search(r"^[^#]*\w: [^#]+$", line)]
    # What is below a commented line belongs to it: patterns that are linnaeus' code, a class's arguments.
    assert {line.strip().split(":")[0].removeprefix("- ") for line in silent} <= {
        "pattern", "replacement", "match", "target", "factor",
    }  # fmt: skip
    assert yaml.safe_load(resource_text(migration, "config.yaml")) == migration.document
