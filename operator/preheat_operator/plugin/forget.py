"""`kubectl preheat forget`: what has died until now does not count; the one verb that changes something."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from preheat.cli.answer import answering
from preheat_operator.plugin.parameters import Context, Kubeconfig, Namespace, Output


def forget(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Of the CheckpointPipeline.")],
    namespace: Namespace = None,
    context: Context = None,
    kubeconfig: Kubeconfig = None,
    output: Output = "text",
) -> None:
    """Let new pods try checkpoints again on which processes have died: those that began until now do not count.

    It annotates the pipeline. Marks beside a run are not removed; they do not count either.
    """
    from preheat_operator.deaths import FORGET, by_checkpoint, deaths_of
    from preheat_operator.plugin.cluster import PIPELINES
    from preheat_operator.plugin.kubectl import Kubectl
    from preheat_operator.plugin.text import show

    kubectl, name = Kubectl(namespace, context, kubeconfig), name.rpartition("/")[2]
    with answering(output == "json"):
        pipeline = kubectl.get(PIPELINES, name)
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        space = pipeline["metadata"]["namespace"]
        kubectl.annotate(PIPELINES, name, f"{FORGET}={now}", namespace=space)
        deaths = deaths_of(pipeline.get("status") or {})
        if output == "json":
            from preheat.cli.answer import show_json

            show_json({"name": name, "namespace": space, "until": now, "deaths": [vars(each) for each in deaths]})
        else:
            show([f"{name} in {space}: who began until {now} does not count as having died on a checkpoint"])
            show(f"  {len(each)} on {each[0].checkpoint} of {each[0].run}" for each in by_checkpoint(deaths))
