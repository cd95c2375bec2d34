"""linnaeus' configurations: names that resolve in a cache and a bucket, automatic resume, stitched models."""

from __future__ import annotations

from preheat.migrate.choices import NewestFile
from preheat.migrate.linnaeus.names import named, output_bucket
from preheat.migrate.linnaeus.weights import weights
from preheat.migrate.migration import Draft, System
from preheat.migrate.places import folder
from preheat.migrate.settings import Key, Settings
from preheat.migrate.traced import Traced

_SAVES = "says when the training saves: keep it for linnaeus, or save with preheat.save"
_ENDPOINT = "`endpoint` of `s3`: rclone's remote is a name in a file of its own; give --endpoint URL"

KEYS = (
    Key("MODEL.PRETRAINED", "a `named` source, or `local` or `http`; `weightsOnly: {strict: false}`"),
    Key("MODEL.PRETRAINED_SOURCE", "`exclude` and `rename` of the strategy, or of `merge`"),
    Key("MODEL.PRETRAINED_CONVNEXT", "`merge`: stem, stages 0 and 1, and what is between them"),
    Key("MODEL.PRETRAINED_ROPEVIT", "`merge`: blocks as stages 2 and 3, the class token for both"),
    Key("MODEL.ROPE_STAGES.DEPTHS", "which of the blocks go to which stage"),
    Key(
        "MODEL.ROPE_STAGES.ROPE_MIXED",
        "nothing",
        "linnaeus copies `freqs` to a block only where it has the block's shape. Here it keeps its initial value: see "
        "`preheat inspect` for the shape, and add a source with `rename` for a block that it fits",
    ),
    Key("MODEL.pretrained_ckpt_handling_metadata.drop_params", "`exclude`"),
    Key("MODEL.pretrained_ckpt_handling_metadata.drop_buffers", "`exclude`"),
    Key("MODEL.pretrained_ckpt_handling_metadata.interpolate_rel_pos_bias", "`interpolate`"),
    Key("MODEL.pretrained_ckpt_handling_metadata.strict", "`strict`"),
    Key(
        "MODEL.pretrained_ckpt_handling_metadata.supports_module_prefix",
        "nothing",
        "a wrapper's `module.` is left out on both sides by itself; where a file has it and no wrapper is there, write "
        "`stripPrefix: [module.]`",
    ),
    Key("MODEL.RESUME", "a `named` source, or `local` or `http`; `warmStart`"),
    Key("TRAIN.RESUME", "the same, as linnaeus' document calls it"),
    Key("TRAIN.AUTO_RESUME", "`resume` from the run's own folder, before everything else"),
    Key("TRAIN.RESUME_SKIP_OPTIMIZER", "`weightsOnly` in place of `warmStart`, in `resume` too"),
    Key("TRAIN.PRESERVE_CHECKPOINT_SCHEDULE", "`warmStart`, which restores a scheduler that it is given"),
    Key("EVAL_MODE", "`weightsOnly` in place of `warmStart`, in `resume` too"),
    Key("ENV.INPUT.CACHE_DIR", "`cacheDir` of `named`"),
    Key("ENV.INPUT.BUCKET.ENABLED", "`bucket` of `named`"),
    Key("ENV.INPUT.BUCKET.NAME", "`bucket.s3.bucket` of `named`"),
    Key("ENV.INPUT.BUCKET.BUCKET", "the same, as linnaeus' code calls it"),
    Key("ENV.INPUT.BUCKET.PATH_PREFIX", "`bucket.s3.key` of `named`; `modelZoo/` if it is not there"),
    Key("ENV.INPUT.BUCKET.REMOTE", _ENDPOINT),
    Key("ENV.INPUT.BUCKET.APP_KEY_ID", "`secretRef`: a Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
    Key("ENV.INPUT.BUCKET.APP_KEY", "the same Secret"),
    Key("ENV.OUTPUT.BASE_DIR", "with EXPERIMENT's names: the folder that `resume` looks into"),
    Key("ENV.OUTPUT.DIRS.CHECKPOINTS", "the folder that `resume` looks into"),
    Key("EXPERIMENT.PROJECT", "part of that folder"),
    Key("EXPERIMENT.GROUP", "part of that folder"),
    Key("EXPERIMENT.NAME", "part of that folder, and the resource's name"),
    Key("ENV.OUTPUT.BUCKET.ENABLED", "`upload`"),
    Key("ENV.OUTPUT.BUCKET.NAME", "`upload.to.s3.bucket`"),
    Key("ENV.OUTPUT.BUCKET.BUCKET", "the same, as linnaeus' code calls it"),
    Key("ENV.OUTPUT.BUCKET.REMOTE", _ENDPOINT),
    Key("ENV.OUTPUT.BUCKET.APP_KEY_ID", "`upload.to.s3.secretRef`"),
    Key("ENV.OUTPUT.BUCKET.APP_KEY", "the same Secret"),
    Key("SCHEDULE.CHECKPOINT.KEEP_TOP_N", "`preheat prune --keep-best`"),
    Key("SCHEDULE.CHECKPOINT.KEEP_LAST_N", "`preheat prune --keep-last`"),
    Key("SCHEDULE.CHECKPOINT", "saving", _SAVES),
    Key("CHECKPOINT.KEEP_TOP_N", "`preheat prune --keep-best`"),
    Key("CHECKPOINT.KEEP_LAST_N", "`preheat prune --keep-last`"),
    Key("CHECKPOINT", "saving", _SAVES),
    Key("MISC.SAVE_FREQ", "saving", _SAVES),
    Key(
        "TRAIN.START_EPOCH",
        "`warmStart`",
        "is set by the checkpoint's epoch when a training is resumed; a warm start gives it to the training as "
        "report.resumed",
    ),
    Key("EXPERIMENT.WANDB.RESUME", "nothing", "is about the run in W&B, which linnaeus keeps up"),
    Key("EXPERIMENT.WANDB.RUN_ID", "nothing", "is about the run in W&B; a checkpoint's own is in report.state"),
    Key("DEBUG.CHECKPOINT", "`preheat report`", "what was loaded is in the report of every process"),
    Key("LOADING_FROM_CHECKPOINT", "nothing", "is linnaeus' own mark while it runs"),
)
SIGNS = (
    "MODEL.PRETRAINED", "MODEL.PRETRAINED_SOURCE", "MODEL.PRETRAINED_CONVNEXT", "MODEL.RESUME", "TRAIN.AUTO_RESUME",
    "TRAIN.RESUME", "ENV.INPUT", "ENV.OUTPUT", "SCHEDULE.CHECKPOINT", "EXPERIMENT.PROJECT", "MODEL.BASE",
)  # fmt: skip
TOPICS = (
    "ENV.INPUT.BUCKET.", "ENV.OUTPUT.BUCKET.", "SCHEDULE.CHECKPOINT.", "MODEL.pretrained_ckpt_handling_metadata.",
)  # fmt: skip

_FOLDER = (
    "so its folder is not known: give ENV.OUTPUT.BASE_DIR=..., and EXPERIMENT.PROJECT, GROUP and NAME, or write "
    "`resume` by hand"
)


def rules(settings: Settings, draft: Draft) -> None:
    """In linnaeus' order: the newest of the run's own, what is named to go on from, pretrained weights."""
    draft.name = str(settings["EXPERIMENT.NAME"] or "")
    own = _own_folder(settings)
    explicit = settings.first("MODEL.RESUME", "TRAIN.RESUME")
    if explicit:
        _go_on(settings, draft, explicit)
    else:
        weights(settings, draft)
    _resume(settings, draft, own)
    if own:
        draft.upload = output_bucket(settings, draft, own)
    _retention(settings, draft, own)


def _retention(settings: Settings, draft: Draft, own: Traced | None) -> None:
    last = settings.first("SCHEDULE.CHECKPOINT.KEEP_LAST_N", "CHECKPOINT.KEEP_LAST_N")
    best = settings.first("SCHEDULE.CHECKPOINT.KEEP_TOP_N", "CHECKPOINT.KEEP_TOP_N")
    rules = f"--keep-last {last}" if last and last.value else ""
    rules += f" --keep-best {best} --metric NAME" if best and best.value else ""
    draft.remark(
        f"removes old checkpoints while the training saves. `preheat prune {own or 'DIR'} {rules.strip()}` says what "
        "would go by the same numbers, and removes it with --yes; never the last good one"
        if rules
        else "is zero, by which linnaeus removes all but latest.pth. Without rules `preheat prune` keeps all",
        best,
        last,
    )


def _own_folder(settings: Settings) -> Traced | None:
    given = settings["ENV.OUTPUT.DIRS.CHECKPOINTS"]
    base = settings["ENV.OUTPUT.BASE_DIR"]
    names = [settings[f"EXPERIMENT.{part}"] for part in ("PROJECT", "GROUP", "NAME")]
    return given or (folder(base, *names, "checkpoints") if base and names[-1] else None)


def _go_on(settings: Settings, draft: Draft, name: Traced) -> None:
    draft.stages.append(named(settings, draft, name))
    if without := _without_optimizer(settings):
        draft.stage("weightsOnly", {"strict": without.made(False)}, without)
    else:
        draft.stage("warmStart", {}, name)
    _about_what_comes_back(settings, draft, name)
    draft.remark(
        "is not read, because a checkpoint to go on from is named, as in linnaeus",
        *(settings[f"MODEL.{key}"] for key in ("PRETRAINED", "PRETRAINED_CONVNEXT", "PRETRAINED_ROPEVIT")),
    )


def _without_optimizer(settings: Settings) -> Traced | None:
    """What says that of a checkpoint to go on from, named or the newest, the weights are wanted alone."""
    return settings.on("TRAIN.RESUME_SKIP_OPTIMIZER", "EVAL_MODE")


def _about_what_comes_back(settings: Settings, draft: Draft, because: Traced | None) -> None:
    if _without_optimizer(settings):
        draft.remark(
            "leaves epoch and iteration to the training, where linnaeus restores them without the optimizer: read them "
            "from the checkpoint with `preheat inspect`",
            settings.on("TRAIN.RESUME_SKIP_OPTIMIZER"),
        )
        return
    kept = settings["TRAIN.PRESERVE_CHECKPOINT_SCHEDULE"]
    draft.remark(
        "the checkpoint's schedule comes back: give the scheduler to preheat.apply"
        if kept and kept.value is True
        else "the configuration's own schedule holds: call preheat.apply(model, optimizer, scheduler=False), and count "
        "on from report.state['iteration']",
        kept or because,
    )


def _resume(settings: Settings, draft: Draft, own: Traced | None) -> None:
    """AUTO_RESUME, which is on where nothing is said."""
    said = settings["TRAIN.AUTO_RESUME"]
    if said and said.value is not True:
        return
    if own is None:
        draft.remark(f"goes on from the newest checkpoint of the run's own folder, {_FOLDER}", said)
        return
    on = said or own
    source = {"root": draft.own_place(own), "layout": own.made("linnaeus")}
    without = _without_optimizer(settings)
    strategy = without.made("weightsOnly") if without else on.made("warmStart")
    draft.resume = on.made({"from": {"run": source}, "select": on.made("latest"), "strategy": strategy})
    draft.choice = NewestFile(str(own), ".pth", draft.choice)
    if not draft.stages:
        _else_from_the_start(draft, on, source, strategy)
    _about_what_comes_back(settings, draft, None)
    if not said:
        draft.remark("is what TRAIN.AUTO_RESUME says by default; to leave it out, set TRAIN.AUTO_RESUME=False", own)


def _else_from_the_start(draft: Draft, on: Traced, source: dict[str, Traced], strategy: Traced) -> None:
    """Where nothing else is named, linnaeus begins with random weights; a resource says that it may."""
    draft.stages.append({"run": on.made({"root": source["root"], "layout": source["layout"]})})
    draft.stage(str(strategy), {}, strategy)
    draft.settings["onFailure"] = on.made("Continue")
    draft.remark(
        "has nothing to begin with but random weights, which is what `onFailure: Continue` allows, with a warning in "
        "status and report. Leave it out once there is a checkpoint that must not be lost",
        on,
    )


SYSTEM = System("linnaeus", KEYS, SIGNS, TOPICS, rules)
