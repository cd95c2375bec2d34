"""`kubectl preheat explain`: why a pod has its loader, or not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from preheat.cli.answer import answering
from preheat_operator.plugin.parameters import FILES, Context, Kubeconfig, NamespaceOrFiles, Output

if TYPE_CHECKING:
    from preheat_operator.plugin.explanation import Explanation


def explain(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TYPE/NAME...", help="As for kubectl get: pod/NAME, deploy/NAME, jobset/NAME; TYPE alone: all."
        ),
    ] = None,
    selector: Annotated[str | None, typer.Option("--selector", "-l", help="Labels of what TYPE alone names.")] = None,
    filename: Annotated[list[str] | None, FILES] = None,
    namespace: NamespaceOrFiles = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = "text",
) -> None:
    """Say whether and why a pod was, or will be, given its checkpoint; of a workload, its template and its pods.

    With -f no cluster is asked: give the pipelines as files, too.

    Exit code: 0 if the pods have what they ask for, or ask for nothing; 1 if not; 2 if that cannot be told.
    """
    if bool(what) == bool(filename):
        raise typer.BadParameter("give TYPE/NAME, such as pod/trainer, or -f FILE")
    with answering(output == "json"):
        from preheat_operator.plugin.explaining import in_cluster, in_files
        from preheat_operator.plugin.kubectl import Kubectl

        if filename:
            found = in_files(filename, namespace)
        else:
            selected = ["-l", selector] if selector else []
            found = in_cluster(Kubectl(namespace, context, kubeconfig), [*(what or []), *selected])
    _show(found, output)
    raise typer.Exit(_exit_code(found))


def _show(found: list[Explanation], output: str) -> None:
    if output == "json":
        from preheat.cli.answer import show_json
        from preheat_operator.plugin.spelling import as_json

        show_json({"explanations": [as_json(each) for each in found]})
    else:
        from preheat_operator.plugin.text import explained, show

        show(explained(found))


def _exit_code(found: list[Explanation]) -> int:
    if all(each.fine for each in found):
        return 0
    return 2 if all(each.fine or each.verdict == "unknown" for each in found) else 1
