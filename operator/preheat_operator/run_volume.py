"""The volume on which a run keeps its checkpoints: the loader reads there what the training containers have written.

It is mounted at the path that it has in those, so that a checkpoint is called the same wherever it is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from preheat_operator.api import Pipeline
from preheat_operator.mounts import cleaned, hides_the_image, mount_of, place_of
from preheat_operator.refusal import PodRefusedError

Object = Mapping[str, Any]

#: Where the pipeline's own volume is, which the loader has anyway.
BUNDLES = "/preheat"


def run_folder(pipeline: Pipeline) -> str:
    """Where the run is on a volume of the training; empty where the loader needs no volume for it."""
    resume = pipeline.parsed.resume
    folder = cleaned(str(resume.folder)) if resume and resume.folder else ""
    return "" if f"{folder}/".startswith(f"{BUNDLES}/") else folder


def run_mount(folder: str, receivers: Sequence[Object]) -> dict[str, Any]:
    """How the loader mounts the volume that holds the run's folder; raises PodRefusedError."""
    found = [(container["name"], mount_of(folder, container)) for container in receivers]
    if missing := [name for name, mount in found if not mount]:
        raise PodRefusedError(
            f"resume.from: the run is in {folder}, and container {missing[0]} has no volume there",
            remedy="Mount the volume that the training saves to, or annotate the pod with preheat.dev/containers",
        )
    places = [place_of(mount) for _, mount in found if mount]
    if any(_spelt(place) != _spelt(places[0]) for place in places):
        raise PodRefusedError(
            f"resume.from: {folder} is not on the same volume in all containers that receive the checkpoint",
            remedy="Mount one volume there, or annotate the pod with preheat.dev/containers",
        )
    mount, path = places[0], cleaned(places[0]["mountPath"])
    if "subPathExpr" in mount or hides_the_image(path):
        raise PodRefusedError(
            f"resume.from: the loader cannot mount volume {mount['name']} at {path}",
            remedy="Mount it at a path of its own, such as /output, without subPathExpr",
        )
    return {**mount, "readOnly": True}


def _spelt(place: Object) -> Object:
    return {**place, "mountPath": cleaned(place["mountPath"])}
