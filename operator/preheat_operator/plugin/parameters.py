"""Options that several verbs take: those of kubectl, under its names."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

_CURRENT = "Default: that of the current context"
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", metavar="NAME", help=f"{_CURRENT}.")]
NamespaceOrFiles = Annotated[
    str | None,
    typer.Option("--namespace", "-n", metavar="NAME", help=f"{_CURRENT}; with -f the only one that files name."),
]
Context = Annotated[str | None, typer.Option("--context", metavar="NAME", help="Of the kubeconfig; default: its own.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", metavar="FILE", help="Default: $KUBECONFIG, else ~/.kube/config.")
]
FILES = typer.Option(
    "--filename", "-f", metavar="FILE", help="YAML or JSON, several documents in one; - is standard input."
)
Output = Annotated[Literal["text", "json"], typer.Option("--output", "-o", help="text for people, json for programs.")]
