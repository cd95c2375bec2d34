"""What a pipeline asks for, whatever it was written in: a resource, a file, a Hydra config, a pod's environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.blob import Patience
from preheat.configuration import body_of, read_document
from preheat.construction import snake_case
from preheat.errors import CheckpointConfigError
from preheat.resume.settings import Resume, resume_of
from preheat.spelling import build, parameters_of, spell
from preheat.stage import CheckpointSource, LoadingStrategy, ModelModifier, PipelineStage

#: What `onFailure` says of a training whose checkpoint cannot be had: it fails, or goes on from its initial weights.
FAIL, CONTINUE = ON_FAILURE = ("Fail", "Continue")


@dataclass(frozen=True)
class PipelineSpec:
    """The stages in order and the settings of the whole run."""

    stages: tuple[PipelineStage, ...]
    continue_on_error: bool = False
    max_retries: int = 3
    timeout_seconds: float = 300  # without progress
    on_failure: str = FAIL  # one of ON_FAILURE
    resume: Resume | None = None  # what is tried before the stages

    @property
    def patience(self) -> Patience:
        """How long the source is tried."""
        return Patience(self.max_retries, self.timeout_seconds)

    @property
    def source(self) -> CheckpointSource:
        """The one source; raises CheckpointConfigError when there is none."""
        for stage in self.stages:
            if isinstance(stage, CheckpointSource):
                return stage.for_training() if self.takes_training_state else stage
        raise CheckpointConfigError("the pipeline has no source. Begin it with a stage such as s3, http or local")

    @property
    def takes_training_state(self) -> bool:
        """Whether a strategy takes what is not weights, too."""
        return any(stage.takes_training_state for stage in self.stages if isinstance(stage, LoadingStrategy))

    @property
    def ema(self) -> str | None:
        """The averaged weights that the strategy takes in place of the raw ones."""
        return next((stage.ema for stage in self.stages if isinstance(stage, LoadingStrategy)), None)

    @property
    def remaining(self) -> tuple[PipelineStage, ...]:
        """The stages that run in the training process."""
        return tuple(s for s in self.stages if isinstance(s, (LoadingStrategy, ModelModifier)))


def parse(document: Mapping[str, Any]) -> PipelineSpec:
    """The spec in a custom resource, in its `spec` alone, or in Anemoi's `training.checkpoint_pipeline`."""
    body = body_of(document)
    stages = body.get("stages")
    if not isinstance(stages, Sequence) or isinstance(stages, str) or not stages:
        raise CheckpointConfigError("the pipeline has no stages. Give a list under `stages:`")
    settings = {snake_case(key): value for key, value in body.items()}
    spec = PipelineSpec(
        stages=tuple(build(stage, f"stages[{position}]") for position, stage in enumerate(stages)),
        continue_on_error=bool(settings.get("continue_on_error", False)),
        max_retries=int(settings.get("max_retries", 3)),
        timeout_seconds=float(settings.get("timeout_seconds", settings.get("timeout", 300))),
        on_failure=_on_failure(settings.get("on_failure", FAIL)),
        resume=resume_of(settings.get("resume")),
    )
    if spec.resume:
        from preheat.resume.after import check  # only a pipeline that resumes pays for it

        check(spec, spec.resume)
    return spec


def read(path: Path) -> tuple[str, PipelineSpec]:
    """The pipeline of a YAML file, and the name of the resource, or that of the file where there is none.

    Raises CheckpointConfigError that names the file.
    """
    document = read_document(path)
    metadata = document.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    try:
        return str(name or path.stem), parse(document)
    except CheckpointConfigError as error:
        raise CheckpointConfigError(f"{path}: {error.args[0]}", remedy=error.remedy) from error


def spec_of(pipeline: PipelineSpec | Mapping[str, Any] | Sequence[Any] | Path | str) -> PipelineSpec:
    """The spec in whatever a caller has: a mapping as `parse` takes it, a list of stages, the path of a file."""
    if isinstance(pipeline, PipelineSpec):
        return pipeline
    if isinstance(pipeline, (str, Path)):
        return read(Path(pipeline).expanduser())[1]
    return parse(pipeline if isinstance(pipeline, Mapping) else {"stages": list(pipeline)})


def to_mapping(spec: PipelineSpec) -> dict[str, Any]:
    """The `spec` of a custom resource that `parse` turns back into an equal PipelineSpec."""
    return {
        "stages": [spell(stage) for stage in spec.stages],
        "continueOnError": spec.continue_on_error,
        "maxRetries": spec.max_retries,
        "timeoutSeconds": spec.timeout_seconds,
        "onFailure": spec.on_failure,
        **({"resume": parameters_of(spec.resume)} if spec.resume else {}),
    }


def _on_failure(value: Any) -> str:
    if value in ON_FAILURE:
        return str(value)
    raise CheckpointConfigError(f"onFailure: {value!r:.40} is not {' or '.join(ON_FAILURE)}")
