"""What a warm start takes besides weights, planned before a byte moves: a second file of tensors, and a document.

The tensors pass the same transfer and the same checks as weights, except that they need not be finite: whoever watches
a training may well remember infinity as the best score so far.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from preheat.blob import Blob
from preheat.checks import Checks, Findings
from preheat.errors import CheckpointConfigError
from preheat.formats.merged import NO_TRAINING
from preheat.formats.pytorch.checkpoint import check_tensors
from preheat.formats.stackwise import without_artefacts
from preheat.formats.training_state import require_optimizer, spell_state
from preheat.index import Index
from preheat.plan import Plan, make_plan
from preheat.spec import PipelineSpec


@dataclass(frozen=True)
class TrainingPlan:
    """The document, and the plan of its tensors, None when it has none."""

    document: Any
    plan: Plan | None
    opaque: Mapping[str, str]  # path -> class, of objects that are kept by their name alone
    left: frozenset[str]  # entries of the checkpoint that a training goes on without

    @property
    def tensors(self) -> int:
        """How many are taken."""
        return len(self.plan.index.tensors) if self.plan else 0

    @property
    def selected_bytes(self) -> int:
        """Bytes of the source, each counted once."""
        return self.plan.selected_bytes if self.plan else 0

    @property
    def output_bytes(self) -> int:
        """Bytes of the tensors' file."""
        return self.plan.output_bytes if self.plan else 0

    def written(self) -> bytes:
        """The document as the bundle has it."""
        text = io.StringIO()
        for part in json.JSONEncoder(separators=(",", ":"), allow_nan=False).iterencode(self.document):
            text.write(part)
        return text.getvalue().encode()


def plan_all(index: Index, spec: PipelineSpec, blob: Blob, findings: Findings) -> tuple[Plan, TrainingPlan | None]:
    """The plan of the weights and that of the rest, where a stage takes it: then nothing is left."""
    plan = make_plan(index, spec, findings)
    training = plan_training(plan.index, spec, blob)  # whose optimizers use the names that the weights have by now
    if training:
        plan = replace(plan, left={key: each for key, each in plan.left.items() if key in training.left})
    return plan, training


def plan_training(index: Index, spec: PipelineSpec, blob: Blob) -> TrainingPlan | None:
    """The plan of what is not weights; None when no stage takes it.

    Raises NothingMatchedError for a checkpoint that was saved without its optimizer.
    """
    if not spec.takes_training_state:
        return None
    if index.origins:
        raise CheckpointConfigError(NO_TRAINING)
    require_optimizer(index.state, blob.uri)
    state = without_artefacts(index)
    left, spelled = frozenset(map(str, index.state.keys() - state.keys())), spell_state(state)
    if not spelled.tensors:
        return TrainingPlan(spelled.document, None, spelled.opaque, left)
    of_state = replace(index, tensors=spelled.tensors, state={})
    check_tensors(of_state, blob.size)
    # Precision and expectations are about weights.
    return TrainingPlan(spelled.document, make_plan(of_state, PipelineSpec(())), spelled.opaque, left)


def checks_of_training(checks: Checks) -> Checks:
    """What holds of these tensors; digests of the whole object were compared while the weights passed."""
    return Checks(crc32=checks.crc32, warn_only=checks.warn_only)
