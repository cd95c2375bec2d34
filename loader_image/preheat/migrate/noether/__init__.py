"""Noether's configurations: a run to go on with, and initializers that take weights of earlier ones."""

from __future__ import annotations

import re

from preheat.migrate.migration import Draft, System
from preheat.migrate.noether.initializers import initializers
from preheat.migrate.noether.runs import run_source
from preheat.migrate.settings import Key, Settings
from preheat.migrate.traced import Traced, some

_SAVES = (
    "writes files, which a resource does not: keep it for Noether, or use preheat.save, which names files as Noether "
    "does (docs/saving.md)"
)
_FETCHES = "a `huggingFace`, `local` or `http` source"

KEYS = (
    Key("resume_run_id", "`run.runId`; `warmStart`"),
    Key("resume_stage_name", "`run.stage`"),
    Key("resume_checkpoint", "`run.select`: `latest` if it is not there; `E10`, `U100`, `S200`, a tag"),
    Key("output_path", "`run.root`"),
    Key("model.name", "`run.model`"),
    Key("stage_name", "nothing", "is where the new run writes, which is the trainer's affair: nothing is read there"),
    Key("run_id", "nothing", "is the name of the run that begins: nothing is read of it"),
    Key("model.initializers[].kind", "a `run` source and `weightsOnly`; ResumeInitializer: `warmStart`"),
    Key("model.initializers[].run_id", "`run.runId`"),
    Key("model.initializers[].stage_name", "`run.stage`"),
    Key("model.initializers[].model_name", "`run.model`"),
    Key("model.initializers[].checkpoint", "`run.select`: a tag, or E, U and S, fully specified too"),
    Key("model.initializers[].checkpoint_tag", "the same, as Noether's code calls it"),
    Key("model.initializers[].model_info", "`run.info`"),
    Key("model.initializers[].output_path", "`run.root`"),
    Key("model.initializers[].path", "a `local`, `s3`, `http` or `huggingFace` source"),
    Key("model.initializers[].keys_to_remove", "`exclude`, whole names"),
    Key("model.initializers[].patterns_to_remove", "`exclude`, text"),
    Key("model.initializers[].patterns_to_rename", "`rename` with `match: substring`"),
    Key("model.initializers[].patterns_to_instantiate", "`keep`"),
    Key("model.initializers[].load_optim", "`warmStart` where it is true, else `weightsOnly`"),
    Key(
        "model.initializers[].pop_ckpt_kwargs_keys",
        "nothing",
        "is about arguments of a model that Noether rebuilds from the checkpoint; Preheat fills the model that is "
        "there",
    ),
    Key("model.*.initializers[]", "the same for a part of a composite model, with `addPrefix`; several as `merge`"),
    Key("model.*.*.initializers[]", "the same"),
    Key("model.is_frozen", "`freezing: {layers: ['*'], evalMode: true}`"),
    Key("model.*.is_frozen", "`freezing` of that part, `evalMode: true`"),
    Key("model.*.*.is_frozen", "the same"),
    Key(
        "trainer.start_at_epoch",
        "the trainer's own",
        "counts epochs from there and loads nothing by it: keep it for the trainer. `coldStart` begins at 0, "
        "`warmStart` where the checkpoint was",
    ),
    Key("resolve_checkpoint.uri", _FETCHES),
    Key("resolve_checkpoint.expected_sha256", "`verify.sha256`"),
    Key(
        "resolve_checkpoint.verify_load",
        "`verify`",
        "tries whether torch can load the file. Every record is checked here as it passes; `preheat verify` does it "
        "alone",
    ),
    Key(
        "resolve_checkpoint.min_free_bytes",
        "nothing",
        "is checked by itself: the loader asks for the room that the bundle needs before it begins",
    ),
    Key("resolve_checkpoint.compute_hash", "`preheat checksum`", "`preheat checksum` and `verify` compute digests"),
    Key(
        "resolve_checkpoint.cache_dir",
        "`volume`",
        "in a pod the bundle is the cache: put it onto a claim with `volume`, so that pods share it",
    ),
    Key("trainer.callbacks[]", "saving", _SAVES),
    Key("callbacks[]", "saving", _SAVES),
)
SIGNS = (
    "resume_run_id", "resume_stage_name", "resume_checkpoint", "model.initializers", "model.*.initializers",
    "model.*.*.initializers", "config_schema_kind",
    "trainer.callbacks", "callbacks", "dataset_kind", "resolve_checkpoint",
)  # fmt: skip
TOPICS = ("model.initializers[", "resolve_checkpoint.", "resume_")


#: Callbacks that write files.
_SAVING = re.compile(r"Checkpoint|Ema")
_NO_OPTIMIZER = (
    "saves `latest` without an optimizer unless save_latest_optim is set, so that nothing can go on from it: set it, "
    "or save with preheat.save"
)


def rules(settings: Settings, draft: Draft) -> None:
    """A run to go on with wins over initializers, as in Noether."""
    draft.name = str(settings["model.name"] or "")
    run = settings["resume_run_id"]
    if run:
        _resumed(settings, draft, run)
    elif uri := settings["resolve_checkpoint.uri"]:
        _fetched(settings, draft, uri)
    else:
        initializers(settings, draft)
    _frozen(settings, draft)
    _about_saving(settings, draft, run)


def _resumed(settings: Settings, draft: Draft, run: Traced) -> None:
    said = settings["resume_checkpoint"]
    parts = some(stage=settings["resume_stage_name"], model=settings["model.name"])
    draft.stages.append(run_source(settings, draft, run, said or run.made("latest"), parts))
    draft.stage("warmStart", {}, run)
    draft.remark(
        "are passed over where a run is gone on with",
        *(settings[path] for path in settings.items("model.initializers")),
    )


def _fetched(settings: Settings, draft: Draft, uri: Traced) -> None:
    draft.stages.append(draft.place(uri.made(_location(str(uri)))))
    if digest := settings["resolve_checkpoint.expected_sha256"]:
        draft.stage("verify", {"sha256": digest.made(str(digest).lower())}, digest)
    draft.stage("weightsOnly", {}, uri)


def _location(uri: str) -> str:
    """Noether's address of a file: `hf://org/name@rev?filename=model.th`, `file://...`."""
    address, _, query = uri.partition("?")
    file = query.removeprefix("filename=")
    return f"{address}/{file}" if file and address.startswith("hf://") else address.removeprefix("file://")


def _frozen(settings: Settings, draft: Draft) -> None:
    frozen = [
        Traced(match[1].rpartition(".")[2] if match[1] else "*", (leaf,))
        for leaf, value in settings.leaves()
        if value is True and (match := re.fullmatch(r"model(?:\.([\w.]+))?\.is_frozen", leaf))
    ]
    if frozen and draft.has_strategy:
        first, *others = frozen
        draft.stage("freezing", {"layers": frozen, "evalMode": first.made(True, *others)}, first.made(None, *others))
    else:
        draft.remark("freezes a model that nothing is loaded into: keep it for Noether", *frozen)


def _about_saving(settings: Settings, draft: Draft, run: Traced | None) -> None:
    for path in (*settings.items("trainer.callbacks"), *settings.items("callbacks")):
        kind = str(settings[f"{path}.kind"] or "").rpartition(".")[2]
        if not _SAVING.search(kind):
            draft.settled.add(path)
        elif run and kind == "CheckpointCallback" and not settings.on(f"{path}.save_latest_optim"):
            draft.remark(_NO_OPTIMIZER, settings[path])


SYSTEM = System("noether", KEYS, SIGNS, TOPICS, rules)
