"""The options of S3, each written down once; a verb receives those that it takes together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import wraps
from typing import Annotated, Any

import typer

#: What a verb's parameter `s3` holds: arguments for `S3Options`.
S3 = Mapping[str, Any]

_OPTIONS: dict[str, tuple[Any, Any]] = {  # annotation and default, by the field of `S3Options`
    "endpoint": (Annotated[str | None, typer.Option(metavar="URL", help="Of an S3 service that is not AWS.")], None),
    "region": (Annotated[str | None, typer.Option(help="Of the S3 bucket; default: the environment's.")], None),
    "anonymous": (
        Annotated[bool, typer.Option("--anonymous", help="Read a public S3 bucket without credentials.")],
        False,
    ),
    "version_id": (
        Annotated[str | None, typer.Option(metavar="ID", help="Of the object, in a versioned S3 bucket.")],
        None,
    ),
    "profile": (
        Annotated[str | None, typer.Option(metavar="NAME", help="Of the AWS configuration files, for S3.")],
        None,
    ),
}

WRITING = ("endpoint", "region", "profile")
READING = ("endpoint", "region", "anonymous", "profile")
READING_OBJECT = ("endpoint", "region", "anonymous", "version_id", "profile")


def s3_options(names: tuple[str, ...]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a verb these options in the place of its parameter `s3`."""

    def decorate(verb: Callable[..., None]) -> Callable[..., None]:
        @wraps(verb)
        def called(**given: Any) -> None:
            s3 = {name: given.pop(name) for name in names}
            verb(**given, s3=s3)

        called.__signature__ = _with_options(inspect.signature(verb, eval_str=True), names)  # type: ignore[attr-defined]
        return called

    return decorate


def _with_options(signature: inspect.Signature, names: tuple[str, ...]) -> inspect.Signature:
    parameters: list[inspect.Parameter] = []
    for parameter in signature.parameters.values():
        if parameter.name != "s3":
            parameters.append(parameter)
            continue
        for name in names:
            annotation, default = _OPTIONS[name]
            parameters.append(parameter.replace(name=name, annotation=annotation, default=default))
    return signature.replace(parameters=parameters)
