"""`kubectl preheat render`: the pod that the webhook would make, without a cluster."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from preheat.cli.answer import answering
from preheat_operator.plugin.parameters import FILES, Context, Kubeconfig, NamespaceOrFiles

if TYPE_CHECKING:
    from preheat_operator.plugin.rendering import Rendering
    from preheat_operator.settings import Settings


def render(
    filename: Annotated[list[str], FILES],
    loader_image: Annotated[
        str | None, typer.Option(metavar="IMAGE", help="Of the loader. Default: the chart's of this version.")
    ] = None,
    installed: Annotated[
        bool, typer.Option("--installed", help="Ask the cluster for the loader's image, resources and environment.")
    ] = False,
    namespace: NamespaceOrFiles = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Annotated[Literal["yaml", "json"], typer.Option("--output", "-o", help="How to print it.")] = "yaml",
) -> None:
    """Print a pod with its loader, or a workload with such a pod template, as the webhook would make it.

    Takes pods or workloads and their CheckpointPipelines from one file or several; asks no cluster, unless --installed.

    Exit code: 0; 1 if the webhook would refuse a pod, with its reason; 2 if the files cannot be used.
    """
    with answering(False):
        from preheat_operator.plugin.documents import common_namespace, read
        from preheat_operator.plugin.rendering import RefusedError, rendered

        settings, origin = _settings(installed, loader_image, (namespace, context, kubeconfig))
        try:
            documents = read(filename)
            found = rendered(documents, common_namespace(documents, namespace), settings)
        except RefusedError as error:
            typer.echo(str(error), err=True)
            raise typer.Exit(1) from None
    typer.echo(f"image, resources and environment of the loader: {origin}", err=True)
    _show(found, output)


def _settings(installed: bool, image: str | None, cluster: tuple[str | None, ...]) -> tuple[Settings, str]:
    from preheat_operator.plugin.installation import Installation

    found = Installation()
    if installed:
        from preheat_operator.plugin.cluster import Cluster
        from preheat_operator.plugin.kubectl import Kubectl

        asked = Cluster(Kubectl(*cluster))
        found = asked.running()
        for note in asked.notes:
            typer.echo(f"note: {note}", err=True)
    if image:
        return replace(found.settings, loader_image=image), f"--loader-image, else {found.origin}"
    return found.settings, found.origin


def _show(found: Rendering, output: str) -> None:
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if output == "json":
        import json

        many: Any = {"apiVersion": "v1", "kind": "List", "items": found.objects}
        typer.echo(json.dumps(found.objects[0] if len(found.objects) == 1 else many, indent=2))
    else:
        from preheat_operator.plugin.documents import written

        typer.echo(written(found.objects), nl=False)
