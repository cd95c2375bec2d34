"""`kubectl preheat status`: what a pipeline does, now or live."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering
from preheat_operator.plugin.parameters import Context, Kubeconfig, Namespace, Output

if TYPE_CHECKING:
    from preheat_operator.plugin.kubectl import Kubectl
    from preheat_operator.plugin.pipeline_view import PipelineView

_EVERY_SECONDS = 2.0


def status(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the CheckpointPipeline.")],
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Follow it until interrupted.")] = False,
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = "text",
) -> None:
    """Show a pipeline's conditions, source and check, its pods with what their loaders do, uploads, and failures.

    With --watch a terminal is kept up to date; elsewhere all is printed anew when something has changed.
    """
    from preheat_operator.plugin.kubectl import Kubectl

    kubectl, name = Kubectl(namespace, context, kubeconfig), name.rpartition("/")[2]
    with answering(output == "json"):
        if watch:
            with suppress(KeyboardInterrupt):
                _follow(kubectl, name, output)
        else:
            _show(_view(kubectl, name), output)


def _view(kubectl: Kubectl, name: str) -> PipelineView:
    from preheat_operator.api import LABEL
    from preheat_operator.plugin.cluster import PIPELINES
    from preheat_operator.plugin.kubectl import NotAllowedError
    from preheat_operator.plugin.pipeline_view import view

    pipeline = kubectl.get(PIPELINES, name)
    namespace = pipeline["metadata"]["namespace"]
    try:
        pods = kubectl.items("pods", "-l", f"{LABEL}={name}", namespace=namespace)
    except NotAllowedError:
        return view(pipeline, None)
    return view(pipeline, pods)


def _show(found: PipelineView, output: str) -> None:
    if output == "json":
        from preheat.cli.answer import show_json

        show_json(found.to_json())
    else:
        from preheat_operator.plugin.status_text import shown
        from preheat_operator.plugin.text import show

        show(shown(found))


def _follow(kubectl: Kubectl, name: str, output: str) -> None:
    from rich.console import Console, Group
    from rich.live import Live

    from preheat_operator.plugin.status_text import shown

    console = Console(highlight=False)
    if output == "text" and console.is_terminal:
        with Live(console=console, auto_refresh=False) as live:
            for found in _views(kubectl, name):
                live.update(Group(*shown(found)), refresh=True)
        return
    last: PipelineView | None = None
    for found in _views(kubectl, name):
        if last is None or found.differs(last):
            _show(found, output)
            sys.stdout.flush()
            last = found


def _views(kubectl: Kubectl, name: str) -> Iterator[PipelineView]:
    """The pipeline now and then until it is gone; a cluster that does not answer once is asked again."""
    from preheat_operator.plugin.kubectl import ClusterError, NotAllowedError, NotThereError

    yield _view(kubectl, name)
    while True:
        time.sleep(_EVERY_SECONDS)
        try:
            yield _view(kubectl, name)
        except (NotAllowedError, NotThereError):
            raise
        except ClusterError as error:
            typer.echo(f"kubectl: {error}", err=True)
