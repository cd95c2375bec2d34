"""`preheat migrate`: a legacy configuration as a resource."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from preheat.cli.answer import answering, show, show_json
from preheat.cli.files import write
from preheat.cli.parameters import Json
from preheat.errors import CheckpointConfigError

if TYPE_CHECKING:
    from preheat.migrate import Detected, Migration
    from preheat.migrate.comparison import Compared

_DIFFERENT = 3


def migrate(
    config: Annotated[
        Path,
        typer.Argument(metavar="CONFIG", help="The file that the training is started with; includes are followed."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings of its command line.")
    ] = None,
    system: Annotated[
        str | None,
        typer.Option("--from", metavar="SYSTEM", help="anemoi, linnaeus, noether or stackwise; else told by its keys."),
    ] = None,
    pipeline: Annotated[
        bool, typer.Option("--pipeline", help="Write the same for use in process too, for Hydra.")
    ] = False,
    check: Annotated[
        bool,
        typer.Option("--check", help="Compare what both would load, on the files that are there; 3: not the same."),
    ] = False,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="DIR", help="Folder to write files to; else they are printed."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Of the resource.")] = "",
    claim: Annotated[
        str | None,
        typer.Option(
            "--claim", metavar="NAME=DIR", help="A claim in the cluster, and the folder here whose files it has."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option("--endpoint", metavar="URL", help="Of the S3 service that the configuration's buckets are in."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Make a CheckpointPipeline of a configuration of Anemoi, linnaeus, Noether or Stack-Wise."""
    with answering(as_json):
        from preheat.migrate import Answers
        from preheat.migrate.places import claim_of

        answers = Answers(name, claim_of(claim) if claim else None, endpoint)
        migration, found = _migrated(config, overrides or [], system, answers)
        texts = _texts(migration, config.name, pipeline)
        compared = _compared(config, overrides or [], system, answers) if check else None
        written = [write(output / file, text, force=force) for file, text in texts.items()] if output else []
    if as_json:
        show_json(_answer(migration, found, texts, compared))
    else:
        if found:
            typer.echo(f"this is {found}", err=True)
        if output or not check:
            _tell(migration, list(texts.values()), [str(path) for path in written])
        if compared:
            show(*_lines(migration.system, compared))
    if compared and not compared.same:
        raise typer.Exit(_DIFFERENT)


def _migrated(
    config: Path, overrides: list[str], system: str | None, answers: Any
) -> tuple[Migration, Detected | None]:
    from dataclasses import replace

    from preheat.migrate import migrate as of_document
    from preheat.migrate.reading import read

    read_config = read(config, overrides)
    migration, found = of_document(read_config.document, system, answers, read_config.unresolved)
    if migration.document:
        _require_valid(migration.document)
    return replace(migration, remarks=(*migration.remarks, *read_config.missing)), found


def _require_valid(document: dict[str, Any]) -> None:
    """Nothing is written that the loader would refuse."""
    from preheat.spec import parse

    try:
        parse(document)
    except CheckpointConfigError as error:
        remedy = f"{error.remedy + '; ' if error.remedy else ''}or give another value as in KEY=VALUE"
        raise CheckpointConfigError(f"what it would become is refused: {error.args[0]}", remedy=remedy) from error


def _texts(migration: Migration, origin: str, pipeline: bool) -> dict[str, str]:
    """The files by name."""
    from preheat.migrate.writing import pipeline_text, resource_text

    texts = {}
    if migration.resource:
        name = migration.resource["metadata"]["name"]
        texts[f"{name}.yaml"] = resource_text(migration, origin)
    if pipeline and migration.stages:
        texts[f"{migration.name}-pipeline.yaml"] = pipeline_text(migration, origin)
    return texts


def _compared(config: Path, overrides: list[str], system: str | None, answers: Any) -> Compared:
    """On the paths of this machine, whatever they are called in the cluster."""
    from dataclasses import replace

    from preheat.blob import Patience
    from preheat.migrate.comparison import compare

    here, _ = _migrated(config, overrides, system, replace(answers, claim=None))
    return compare(here, Patience())


def _tell(migration: Migration, texts: list[str], written: list[str]) -> None:
    from preheat.migrate.writing import said

    if not migration.stages:
        typer.echo("it begins with random weights: there is nothing to load, so no resource is needed", err=True)
    elif not migration.resource:
        typer.echo("no resource can be made of it, only what runs in process: --pipeline", err=True)
    for line in written:
        typer.echo(line)
    if texts and not written:
        typer.echo("---\n".join(texts), nl=False)  # what is left to say stands at their ends
    else:
        typer.echo(said(migration.remarks, mark=""), err=True, nl=False)


def _answer(
    migration: Migration, found: Detected | None, texts: dict[str, str], compared: Compared | None
) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "system": migration.system,
        "signs": list(found.signs) if found else [],
        "resource": migration.document,
        "files": texts,
        "remarks": [{"keys": list(remark.keys), "text": remark.text} for remark in migration.remarks],
    }
    return answer | ({"check": compared.to_json()} if compared else {})


def _lines(system: str, compared: Compared) -> list[str]:
    """Both choices; no table, which would cut a path."""
    rows = [
        (f"{system} takes", f"{_near(compared.legacy.path) or 'nothing'} ({compared.legacy.why})"),
        ("Preheat takes", f"{_near(compared.ours.path) or 'nothing'} ({compared.ours.why})"),
        *(("passing over", f"{_near(path)}: {reason}") for path, reason in compared.ours.passed),
        ("which is", "the same" if compared.same else "not the same"),
    ]
    return [f"{label:<17} {text}" for label, text in rows]


def _near(path: object) -> str:
    """A path from here, where it is below."""
    text = str(path or "")
    return text.removeprefix(f"{Path.cwd()}/")
