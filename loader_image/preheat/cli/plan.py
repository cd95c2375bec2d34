"""`preheat plan`: what a run would do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.parameters import Json, PipelineFile, read_pipeline

if TYPE_CHECKING:
    from rich.table import Table

    from preheat.verbs.forecast import Forecast


def plan(
    pipeline: PipelineFile,
    bandwidth: Annotated[
        str | None, typer.Option(metavar="RATE", help="Such as 100MB/s or 10Gbit/s: tell how long it would take.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Say what `run` would do, before a byte of payload moves: tensors, bytes, requests, output, what is left out."""
    with answering(as_json):
        from preheat.amounts import bytes_per_second
        from preheat.verbs.forecast import plan_pipeline

        rate = bytes_per_second(bandwidth) if bandwidth else None
        forecast = plan_pipeline(read_pipeline(pipeline))
    if as_json:
        show_json(forecast.to_json() | ({"seconds": round(forecast.seconds(rate), 3)} if rate else {}))
    else:
        show(_table(forecast, rate))


def _training(forecast: Forecast) -> list[tuple[str, str]]:
    from preheat.amounts import size_text

    if not forecast.training_tensors:
        return []
    return [("takes besides", f"{forecast.training_tensors} of training state, {size_text(forecast.training_bytes)}")]


def _table(forecast: Forecast, rate: float | None) -> Table:
    from preheat.amounts import count_of, parameters_text, size_text
    from preheat.tables import merged_rows
    from preheat.terminal import facts, said_checks

    travels = f"{count_of(forecast.ranges, 'range')}, about {count_of(forecast.requests, 'request')}"
    tied = f", {forecast.tied} more names share their bytes" if forecast.tied else ""
    rows = [
        ("source", forecast.uri),
        ("version", forecast.version),
        ("size", size_text(forecast.size_bytes)),
        ("format", f"{forecast.format} ({forecast.layout})"),
        *merged_rows(forecast.merged),
        *((("averages", forecast.average),) if forecast.average else ()),
        ("takes", f"{count_of(forecast.tensors, 'tensor')}, {parameters_text(forecast.parameters)}{tied}"),
        ("", f"{size_text(forecast.selected_bytes)} in {travels}"),
        ("leaves out", f"{count_of(forecast.left_tensors, 'tensor')}, {size_text(forecast.left_bytes)}"),
        *_training(forecast),
        ("excludes", f"{count_of(forecast.excluded_tensors, 'weight')}, {size_text(forecast.excluded_bytes)}"),
        ("reads", f"{size_text(forecast.read_bytes)}, of which {size_text(forecast.index_bytes)} for this plan"),
        ("writes", size_text(forecast.output_bytes)),
        ("checks", said_checks(forecast.checks)),
        *(("warning", warning) for warning in forecast.warnings),
        ("then, in the training process", ", ".join(name for stage in forecast.remaining for name in stage) or "-"),
    ]
    if rate:
        rows.append(("lasts at least", f"{forecast.seconds(rate):.1f} s at {size_text(rate)}/s"))
    return facts(rows)
