"""Anemoi's configurations: the trainer's own keys, the checkpoint guide's pipeline, and the typed one after it."""

from __future__ import annotations

from preheat.migrate.anemoi.runs import run_source
from preheat.migrate.anemoi.stages import modifiers_of, stages_of
from preheat.migrate.choices import ThatFile
from preheat.migrate.migration import Draft, System
from preheat.migrate.places import folder
from preheat.migrate.settings import Key, Settings
from preheat.migrate.traced import Traced, some

_RUN = "a `run` source with this `runId`, `select: last`, `layout: anemoi`"
_SAVES = (
    "says when the trainer saves, which a resource does not: keep it for Anemoi's own callback, or save with "
    "preheat.save and its Lightning callback, and remove what is old with `preheat prune`"
)
_SERVERS = "follows a run to another tracking server: write the id that the run has there as `runId`"

KEYS = (
    Key("training.run_id", f"{_RUN}; `warmStart`"),
    Key("training.fork_run_id", f"{_RUN}; `warmStart`, or what `load_weights_only` says"),
    Key("system.input.warm_start", "a `local`, `s3` or `http` source, before a run; `warmStart`"),
    Key("hardware.files.warm_start", "the same, as it was called before"),
    Key("hardware.paths.warm_start", "the folder of that file"),
    Key("training.resume_from_checkpoint", "a `local`, `s3` or `http` source; `warmStart`"),
    Key("resume_from_checkpoint", "the same"),
    Key("training.load_weights_only", "`weightsOnly: {strict: false}` in place of `warmStart`"),
    Key("training.transfer_learning", "with `load_weights_only`: `transferLearning: {skipMismatched: true}`"),
    Key("training.submodules_to_freeze", "`freezing`, the paths below `model.model`"),
    Key("training.update_ds_stats_on_ckpt_load.states", "`keep` of the strategy: the dataset's own statistics stay"),
    Key("training.update_ds_stats_on_ckpt_load.tendencies", "the same, for tendencies"),
    Key("system.output.root", "the beginning of the run's `root`"),
    Key("system.output.checkpoints.root", "`root` of the run"),
    Key("hardware.paths.checkpoints", "the same, as it was called before"),
    Key("hardware.paths.output", "the beginning of the run's `root`"),
    Key("training.checkpoint_pipeline.stages[]", "the stages, each as its own"),
    Key("training.checkpoint_pipeline.continue_on_error", "`continueOnError`"),
    Key("training.checkpoint_pipeline.max_retries", "`maxRetries`"),
    Key("training.checkpoint_pipeline.timeout", "`timeoutSeconds`"),
    Key(
        "training.checkpoint_pipeline.async_execution",
        "nothing",
        "a resource is carried out by the loader, before the process: nothing waits for it. In process it is an "
        "argument of CheckpointPipeline",
    ),
    Key(
        "training.checkpoint_pipeline.cache_dir",
        "`volume`",
        "in a pod the bundle is the cache: put it onto a claim with `volume`, so that pods share it. In process it is "
        "an argument of CheckpointPipeline",
    ),
    Key("training.checkpoint.source", "a source"),
    Key("training.checkpoint.loading", "a strategy"),
    Key("training.checkpoint.modifiers[]", "modifiers, in order"),
    Key("training.model_modifier.modifiers[]", "modifiers, in order; one of your own as `custom`"),
    Key("training.parent_run_server2server", "nothing", _SERVERS),
    Key("training.fork_run_server2server", "nothing", _SERVERS),
    Key(
        "training.check_variables_compatibility",
        "`verify.expect`",
        "variables are compared by Anemoi, in its process. What Preheat can compare before, names and shapes, is "
        "written as `verify: {expect: {shapes: {...}}}`",
    ),
    Key(
        "training.allow_variable_subset",
        "`transferLearning`",
        "fewer variables are other shapes: `transferLearning` skips those tensors and names them, `overlap` copies "
        "what both sides have",
    ),
    Key("diagnostics.checkpoint", "saving", _SAVES),
    Key("diagnostics.enable_checkpointing", "saving", _SAVES),
    Key("system.output.checkpoints", "saving", _SAVES),
    Key("hardware.files.checkpoint", "saving", _SAVES),
)
SIGNS = (
    "training.fork_run_id", "training.load_weights_only", "training.transfer_learning", "training.submodules_to_freeze",
    "training.checkpoint_pipeline", "training.checkpoint.source", "training.checkpoint.loading",
    "training.model_modifier", "training.update_ds_stats_on_ckpt_load", "training.resume_from_checkpoint",
    "system.input.warm_start", "system.output.checkpoints", "hardware.files.warm_start", "hardware.paths.checkpoints",
    "diagnostics.checkpoint", "training.model_task",
)  # fmt: skip
TOPICS = (
    "training.checkpoint_pipeline.", "training.checkpoint.", "training.model_modifier.",
    "training.update_ds_stats_on_ckpt_load.", "system.output.checkpoints.", "diagnostics.checkpoint.",
)  # fmt: skip

# Where the trainer's LightningModule has the parts that the keys name.
_INNER = "model.model."
_STATISTICS = r"^model\.(pre|post)_processors\."
_BOTH_STATISTICS = r"^model\.(pre|post)_processors(_tendencies)?\."


def rules(settings: Settings, draft: Draft) -> None:
    """The trainer's keys, unless the configuration has a pipeline, which is the newer way to say the same."""
    if not stages_of(settings, draft):
        _of_the_trainer(settings, draft)
    modifiers_of(settings, draft)


def _of_the_trainer(settings: Settings, draft: Draft) -> None:
    """In the trainer's order: a file, a fork, a run."""
    because = _file(settings) or settings.first("training.fork_run_id", "training.run_id")
    if because is None:
        return
    if because.keys[0] in ("training.fork_run_id", "training.run_id"):
        draft.stages.append(run_source(settings, draft, because))
        _about_fork(settings, draft)
    else:
        draft.choice = ThatFile(str(because))
        draft.stages.append(draft.place(because))
    _strategy(settings, draft, because)
    _freezing(settings, draft)


def _file(settings: Settings) -> Traced | None:
    new = settings.first("system.input.warm_start", "training.resume_from_checkpoint", "resume_from_checkpoint")
    if new:
        return new
    name = settings["hardware.files.warm_start"]
    above = settings["hardware.paths.warm_start"]
    return folder(above, name) if above and name else name


def _about_fork(settings: Settings, draft: Draft) -> None:
    fork = settings["training.fork_run_id"]
    if fork is None:
        return
    draft.remark(
        "is the name of the run that begins, for its trainer; nothing is read of it", settings["training.run_id"]
    )
    if not settings.on("training.load_weights_only"):
        draft.remark(
            "a fork goes on with optimizer and epoch, as in Anemoi's trainer without load_weights_only. To begin anew, "
            "make `warmStart` `coldStart`",
            fork,
        )


def _strategy(settings: Settings, draft: Draft, because: Traced) -> None:
    only, transfer = settings.on("training.load_weights_only"), settings.on("training.transfer_learning")
    kept = _statistics(settings, draft)
    if only and transfer:
        draft.stage("transferLearning", some(skipMismatched=transfer.made(True), keep=kept), only)
        return
    if only:
        draft.stage("weightsOnly", some(strict=only.made(False), keep=kept), only)
        return
    draft.stage("warmStart", some(keep=kept), because)
    draft.remark(
        "has had no effect without load_weights_only: Anemoi's trainer resumes. If you meant it, make `warmStart` "
        "`transferLearning: {skipMismatched: true}`",
        transfer,
    )


def _statistics(settings: Settings, draft: Draft) -> Traced | None:
    """The patterns of buffers that the dataset fills and the checkpoint must not."""
    above = "training.update_ds_stats_on_ckpt_load"
    states, tendencies = settings.on(f"{above}.states"), settings.on(f"{above}.tendencies")
    if states:
        return states.made([_BOTH_STATISTICS if tendencies else _STATISTICS], tendencies)
    draft.remark(
        r"for a model that has processors of tendencies, add `keep: ['^model\.(pre|post)_processors_tendencies\.']` to "
        "the strategy: a pattern that names nothing is an error, so it is not there already",
        tendencies,
    )
    return None


def _freezing(settings: Settings, draft: Draft) -> None:
    layers = settings["training.submodules_to_freeze"]
    if layers is None:
        return
    names = layers.value if isinstance(layers.value, list) else [layers.value]
    draft.stage("freezing", {"layers": [layers.made(_INNER + str(name)) for name in names]}, layers)
    draft.remark(
        f"paths are exact here, from Lightning's module on, hence {_INNER}: where the part is elsewhere, the error "
        "names what is near. Anemoi looks for the name at any depth, and says that it froze what it has not found",
        layers,
    )


SYSTEM = System("anemoi", KEYS, SIGNS, TOPICS, rules)
