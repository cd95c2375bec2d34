"""Stages that an Anemoi configuration lists by `_target_`: of the checkpoint guide, of its code and its schema."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from preheat.construction import camel_case, snake_case
from preheat.errors import CheckpointError
from preheat.migrate.anemoi.runs import run_source
from preheat.migrate.choices import ThatFile
from preheat.migrate.migration import Draft
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced
from preheat.spelling import build, spell

_PIPELINES = ("training.checkpoint_pipeline", "checkpoint_pipeline")
_SETTINGS = {"continue_on_error": "continueOnError", "max_retries": "maxRetries", "timeout": "timeoutSeconds"}
_TYPED = ("training.checkpoint.source", "training.checkpoint.loading")


def stages_of(settings: Settings, draft: Draft) -> bool:
    """Add the stages that the configuration lists; whether there were any."""
    listed = [path for above in _PIPELINES for path in settings.items(f"{above}.stages")]
    typed = [path for path in _TYPED if settings[path]] + settings.items("training.checkpoint.modifiers")
    for path in listed or typed:
        _Stage(path, settings, draft).add()
    for above in _PIPELINES:
        for key, name in _SETTINGS.items():
            if found := settings[f"{above}.{key}"]:
                draft.settings[name] = found
    return bool(listed or typed)


def modifiers_of(settings: Settings, draft: Draft) -> None:
    """Add those of the older proposal, which stand behind whatever loads."""
    for path in settings.items("training.model_modifier.modifiers"):
        _Stage(path, settings, draft).add()


class _Stage:
    """One of them, and the draft that it goes to."""

    def __init__(self, path: str, settings: Settings, draft: Draft) -> None:
        self.path, self.settings, self.draft = path, settings, draft
        self.whole = settings[path] or Traced({}, (path,))
        self.target = str(self["_target_"] or "")

    def __getitem__(self, name: str) -> Traced | None:
        return self.settings[f"{self.path}.{name}"]

    def add(self) -> None:
        """By the class's name, which has changed less than its package."""
        ours = not self.target or self.target.startswith(("anemoi.", "preheat."))
        self.draft.settled.add(f"{self.path}._target_")
        of_code = _CODE.get(self.target.rpartition(".")[2])
        if not ours:
            self._of_the_users()
        elif of_code and self.target.startswith("anemoi."):
            of_code(self)
        else:
            self._as_written()

    def put(self, name: str, **parameters: Traced | None) -> None:
        """Add a stage with those of the parameters that are there."""
        there = {camel_case(key): value for key, value in parameters.items() if value is not None}
        self.draft.stage(name, there, self.whole)

    def _as_written(self) -> None:
        """A stage of the guide, or of ours, means here what it says."""
        try:
            [(name, parameters)] = spell(build(self.whole.value)).items()
        except CheckpointError as error:
            self.draft.remark(f"is no stage here: {error.args[0]}", self.whole)
            return
        self.draft.settled.add(self.path)
        keys = {camel_case(snake_case(str(key))): key for key in self.whole.value}
        there = {key: Traced(each, (f"{self.path}.{keys.get(key, key)}",)) for key, each in parameters.items()}
        self.draft.stage(name, there, self.whole)

    def _of_the_users(self) -> None:
        """A class of the user's: behind a strategy it may do anything; before, the loader would have to import it."""
        self.draft.settled.add(self.path)
        given = {name: value for name, value in self.whole.value.items() if not str(name).startswith("_")}
        if self.draft.has_strategy:
            parameters = {"params": given} if given else {}
            self.draft.stages.append({"custom": self.whole.made({"target": self.target, **parameters})})
            return
        self.draft.stages.append(self.whole.made({"_target_": self.target, **given}))
        self.draft.remark(
            f"{self.target} is a class of yours in the place of a source or strategy, and the loader imports none. In "
            "process it runs as it is (--pipeline). In a resource write what it does with Preheat's own stages, and "
            "what is left of it as `custom` behind a strategy",
            self.whole,
        )


def _local(stage: _Stage) -> None:
    if path := stage["path"]:
        stage.draft.choice = ThatFile(str(path))
        stage.draft.stages.append(stage.draft.place(path))
    else:
        stage.draft.remark("names no path: in Anemoi the context has it; write `local: {path: ...}`", stage.whole)


def _s3(stage: _Stage) -> None:
    if url := stage["url"]:
        stage.draft.stages.append(stage.draft.place(url))
    else:
        stage.put("s3", **{name: stage[name] for name in ("bucket", "key", "region", "endpoint")})


def _http(stage: _Stage) -> None:
    stage.put("http", url=stage["url"])
    for key in ("max_retries", "timeout"):
        if found := stage[key]:
            stage.draft.settings[_SETTINGS[key]] = found
    if checksum := stage["expected_checksum"]:
        stage.draft.stage("verify", {"sha256": checksum.made(str(checksum).removeprefix("sha256:").lower())}, checksum)


def _run(stage: _Stage) -> None:
    run_id, fork = stage["run_id"], stage["fork"]
    if run_id is None:
        stage.draft.remark("names no run, so Anemoi begins a new one and there is nothing to load", stage.whole)
        return
    stage.draft.stages.append(run_source(stage.settings, stage.draft, run_id))
    stage.draft.remark("which name the run has from now on, its own or a new one, is the trainer's affair", fork)


def _freezing(stage: _Stage) -> None:
    layers = stage["submodules_to_freeze"] or stage["layers"]
    if layers is None:
        stage.draft.remark("names nothing to freeze", stage.whole)
        return
    names = layers.value if isinstance(layers.value, list) else [layers.value]
    stage.put("freezing", layers=layers.made([str(name) for name in names]), strict=stage["strict"])
    stage.draft.remark("what was frozen is counted and reported, always", stage["validate_gradients"])


def _transfer_learning(stage: _Stage) -> None:
    stage.put("transferLearning", strict=stage["strict"], skip_mismatched=stage["skip_mismatched"])


def _weights_only(stage: _Stage) -> None:
    stage.put("weightsOnly", strict=_lenient(stage))


def _cold_start(stage: _Stage) -> None:
    stage.put("coldStart", strict=_lenient(stage), reset_layers=stage["reset_layers"])


def _lenient(stage: _Stage) -> Traced:
    """Anemoi's strategies are not strict where they do not say so; ours are."""
    return stage["strict"] or Traced(False, (f"{stage.path}._target_",))


_CODE: Mapping[str, Callable[[_Stage], Any]] = {
    "LocalSource": _local,
    "S3Source": _s3,
    "HTTPSource": _http,
    "RunSource": _run,
    "WeightsOnlyLoader": _weights_only,
    "ColdStartLoader": _cold_start,
    "TransferLearningLoader": _transfer_learning,
    "TransferLearningModelModifier": _transfer_learning,
    "FreezingModifier": _freezing,
    "FreezingModifierStage": _freezing,
    "FreezingModelModifier": _freezing,
}
