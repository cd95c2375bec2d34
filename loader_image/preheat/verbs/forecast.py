"""What a run of a pipeline would do, told before a byte of payload moves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from preheat.blob import Blob
from preheat.bundle.manifest import MergedFacts
from preheat.bundle.origins import merged_facts
from preheat.checks import Checks, Findings
from preheat.formats import read_index
from preheat.index import Tensor
from preheat.moves import coalesce
from preheat.plan import Amount, Plan, verify_of
from preheat.spec import PipelineSpec, spec_of
from preheat.spelling import spell
from preheat.training_plan import checks_of_training, plan_all
from preheat.transfer.digests import Digests
from preheat.transfer.engine import MAX_GAP, SPAN
from preheat.transfer.pace import LOCAL, REMOTE
from preheat.transfer.pieces import Piece
from preheat.verbs.location import opened


@dataclass(frozen=True)
class Forecast:
    """The plan of one pipeline for the present version of its source."""

    uri: str
    version: str
    size_bytes: int
    format: str
    layout: str
    average: str  # where the weights are, if they are averages in place of the raw ones
    merged: tuple[MergedFacts, ...]  # what it is made of, if of several checkpoints
    tensors: int  # in the output
    tied: int  # names that share another's bytes
    parameters: int
    selected_bytes: int  # of the source, that the output is made of
    output_bytes: int
    left_tensors: int
    left_bytes: int
    left: Mapping[str, Amount]  # the same, by entry of the checkpoint
    training_tensors: int  # of the training state, that a warm start takes
    training_bytes: int
    excluded_tensors: int  # weights that the convert stage leaves out
    excluded_bytes: int
    ranges: int  # runs of bytes in a row
    requests: int  # about, the index's not counted
    read_bytes: int  # of the source, index included
    index_bytes: int  # of these, read already for this forecast
    checks: Checks
    warnings: tuple[str, ...]  # what checks that only warn have found so far
    remaining: tuple[dict[str, Any], ...]  # stages for the training process

    def seconds(self, bandwidth: float) -> float:
        """How long the bytes travel at `bandwidth` bytes per second."""
        return self.read_bytes / bandwidth

    def to_json(self) -> dict[str, Any]:
        """Everything, for a program."""
        return {
            "source": {"uri": self.uri, "version": self.version, "sizeBytes": self.size_bytes},
            "format": self.format,
            "layout": self.layout,
            "average": self.average,
            "merged": [each.to_json() for each in self.merged],
            "tensors": self.tensors,
            "tied": self.tied,
            "parameters": self.parameters,
            "selectedBytes": self.selected_bytes,
            "outputBytes": self.output_bytes,
            "left": {
                "tensors": self.left_tensors,
                "bytes": self.left_bytes,
                "entries": {key: vars(amount).copy() for key, amount in self.left.items()},
            },
            "training": {"tensors": self.training_tensors, "bytes": self.training_bytes},
            "excluded": {"tensors": self.excluded_tensors, "bytes": self.excluded_bytes},
            "ranges": self.ranges,
            "requests": self.requests,
            "readBytes": self.read_bytes,
            "indexBytes": self.index_bytes,
            "checks": self.checks.to_json(),
            "warnings": list(self.warnings),
            "remaining": list(self.remaining),
        }


def plan_pipeline(pipeline: PipelineSpec | Mapping[str, Any] | Sequence[Any] | Path | str) -> Forecast:
    """Read the index of the pipeline's source and plan its run; raises what the run would raise up to there.

    The pipeline is given as to `run_pipeline`.
    """
    spec = spec_of(pipeline)
    with opened(spec.source, spec.patience) as blob:
        verify = verify_of(spec)
        findings = Findings(verify.warn_only)
        checks = verify.pinned(blob, spec.source, spec.patience, findings)
        index = read_index(blob)
        plan, training = plan_all(index, spec, blob, findings)
        travels = [_travel(plan, blob, checks)]
        document = 0
        if training:
            document = len(training.written())
            travels += [_travel(training.plan, blob, checks_of_training(checks))] if training.plan else []
        return Forecast(
            uri=blob.uri,
            version=blob.version,
            size_bytes=blob.size,
            format=index.format,
            layout=index.layout,
            average=plan.index.average,
            merged=merged_facts(plan.index),
            tensors=len(plan.index.tensors) - len(plan.aliases),
            tied=len(plan.aliases),
            parameters=plan.index.parameters,
            selected_bytes=plan.selected_bytes,
            output_bytes=plan.output_bytes + (training.output_bytes if training else 0) + document,
            left_tensors=plan.left_tensors,
            left_bytes=plan.left_bytes,
            left=plan.left,
            training_tensors=training.tensors if training else 0,
            training_bytes=training.selected_bytes if training else 0,
            excluded_tensors=plan.excluded_tensors,
            excluded_bytes=plan.excluded_bytes,
            ranges=sum(travel.ranges for travel in travels),
            requests=sum(travel.requests for travel in travels),
            read_bytes=blob.fetched + sum(travel.size for travel in travels),
            index_bytes=blob.fetched,
            checks=checks,
            warnings=findings.warnings,
            remaining=tuple(spell(stage) for stage in spec.remaining),
        )


@dataclass(frozen=True)
class _Travel:
    """What one output asks of the source."""

    ranges: int
    requests: int
    size: int  # bytes


def _travel(plan: Plan, blob: Blob, checks: Checks) -> _Travel:
    spans = coalesce(plan.moves, max_gap=MAX_GAP, max_length=SPAN)
    pace = REMOTE if blob.remote else LOCAL
    passing = blob.size if checks.whole else sum(span.stop - span.start for span in spans)
    gathered = [stored for each in plan.gatherings for stored in each.tensor.stored()]
    return _Travel(
        ranges=1 if checks.whole else len(spans),
        requests=_requests(Digests(blob, checks).pieces(spans, pace.piece_of(passing)), gathered),
        size=passing + sum(tensor.extent() for tensor in gathered),
    )


def _requests(pieces: Iterable[Piece], gathered: list[Tensor]) -> int:
    count = sum(1 for _ in pieces)
    if not gathered:
        return count
    from preheat.transfer.gather import BLOCK  # needs numpy

    return count + sum(-(-tensor.extent() // BLOCK) for tensor in gathered)
