"""Preheat gives a training pod its checkpoint before the training process starts."""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False
if TYPE_CHECKING:  # the same names for type checkers; a test compares
    from preheat.catalog import ComponentCatalog as ComponentCatalog
    from preheat.configuration import CheckpointPipelineConfig as CheckpointPipelineConfig
    from preheat.context import CheckpointContext as CheckpointContext
    from preheat.errors import AccessDeniedError as AccessDeniedError
    from preheat.errors import CheckpointConfigError as CheckpointConfigError
    from preheat.errors import CheckpointError as CheckpointError
    from preheat.errors import CheckpointIncompatibleError as CheckpointIncompatibleError
    from preheat.errors import CheckpointLoadError as CheckpointLoadError
    from preheat.errors import CheckpointNotFoundError as CheckpointNotFoundError
    from preheat.errors import CheckpointSourceError as CheckpointSourceError
    from preheat.errors import CheckpointTimeoutError as CheckpointTimeoutError
    from preheat.errors import CheckpointValidationError as CheckpointValidationError
    from preheat.errors import NothingMatchedError as NothingMatchedError
    from preheat.errors import NoWeightsError as NoWeightsError
    from preheat.legacy import compare_state_dicts as compare_state_dicts
    from preheat.legacy import detect_format as detect_format
    from preheat.legacy import download_with_retry as download_with_retry
    from preheat.legacy import estimate_checkpoint_memory as estimate_checkpoint_memory
    from preheat.legacy import format_size as format_size
    from preheat.legacy import get_checkpoint_metadata as get_checkpoint_metadata
    from preheat.legacy import load_checkpoint as load_checkpoint
    from preheat.legacy import validate_checkpoint as validate_checkpoint
    from preheat.pipeline import CheckpointPipeline as CheckpointPipeline
    from preheat.prepare import Outcome as Outcome
    from preheat.runs.retention import Retention as Retention
    from preheat.saving.averages import Average as Average
    from preheat.saving.save import flush as flush
    from preheat.saving.save import save as save
    from preheat.saving.termination import Termination as Termination
    from preheat.shim.apply import apply as apply
    from preheat.shim.reports.report import Report as Report
    from preheat.stage import CheckpointSource as CheckpointSource
    from preheat.stage import LoadingStrategy as LoadingStrategy
    from preheat.stage import ModelModifier as ModelModifier
    from preheat.stage import PipelineStage as PipelineStage
    from preheat.verbs.comparison import Comparison as Comparison
    from preheat.verbs.comparison import compare as compare
    from preheat.verbs.conversion import Converted as Converted
    from preheat.verbs.conversion import convert_checkpoint as convert_checkpoint
    from preheat.verbs.digest import calculate_checksum as calculate_checksum
    from preheat.verbs.forecast import Forecast as Forecast
    from preheat.verbs.forecast import plan_pipeline as plan_pipeline
    from preheat.verbs.inspection import Inspection as Inspection
    from preheat.verbs.inspection import inspect as inspect
    from preheat.verbs.preparation import run_pipeline as run_pipeline
    from preheat.verbs.resolution import resolve_checkpoint_path as resolve_checkpoint_path
    from preheat.verbs.verification import Verified as Verified
    from preheat.verbs.verification import verify_checkpoint as verify_checkpoint
    from preheat.verbs.volume import collect_bundles as collect_bundles
    from preheat.verbs.volume import list_bundles as list_bundles
    from preheat.verbs.volume import remove_bundles as remove_bundles

# Imported on first use (PEP 562): this package is imported at the start of other people's processes.
_EXPORTS = {
    "catalog": ("ComponentCatalog",),
    "verbs.comparison": ("Comparison", "compare"),
    "verbs.conversion": ("Converted", "convert_checkpoint"),
    "configuration": ("CheckpointPipelineConfig",),
    "context": ("CheckpointContext",),
    "verbs.digest": ("calculate_checksum",),
    "errors": (
        "AccessDeniedError",
        "CheckpointConfigError",
        "CheckpointError",
        "CheckpointIncompatibleError",
        "CheckpointLoadError",
        "CheckpointNotFoundError",
        "CheckpointSourceError",
        "CheckpointTimeoutError",
        "CheckpointValidationError",
        "NoWeightsError",
        "NothingMatchedError",
    ),
    "verbs.forecast": ("Forecast", "plan_pipeline"),
    "verbs.inspection": ("Inspection", "inspect"),
    "legacy": (
        "compare_state_dicts",
        "detect_format",
        "download_with_retry",
        "estimate_checkpoint_memory",
        "format_size",
        "get_checkpoint_metadata",
        "load_checkpoint",
        "validate_checkpoint",
    ),
    "pipeline": ("CheckpointPipeline",),
    "prepare": ("Outcome",),
    "runs.retention": ("Retention",),
    "saving.averages": ("Average",),
    "saving.save": ("flush", "save"),
    "saving.termination": ("Termination",),
    "shim.apply": ("apply",),
    "shim.reports.report": ("Report",),
    "stage": ("CheckpointSource", "LoadingStrategy", "ModelModifier", "PipelineStage"),
    "verbs.preparation": ("run_pipeline",),
    "verbs.resolution": ("resolve_checkpoint_path",),
    "verbs.verification": ("Verified", "verify_checkpoint"),
    "verbs.volume": ("collect_bundles", "list_bundles", "remove_bundles"),
}
_MODULES = {name: f"preheat.{module}" for module, names in _EXPORTS.items() for name in names}

__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name not in _MODULES:
        raise AttributeError(f"module 'preheat' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
