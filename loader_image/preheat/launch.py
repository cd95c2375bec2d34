"""Runs a command as the training container of an injected pod runs: its bundle is there, the shim is on its path.

For machines without Kubernetes, a laptop or a node that Slurm gave. The command takes the place of this process, so
signals and exit code are its own. Every process of a job may do the same: one makes the bundle, the others wait.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from preheat.amounts import count_of, size_text
from preheat.bundle.contents import BUNDLE_LINK, PODS
from preheat.bundle.lease import owner_here
from preheat.bundle.manifest import Pipeline
from preheat.bundle.processes import forget_ended, show_life
from preheat.bundle.store import SHIM_FOLDER
from preheat.loader import Settings, load_or_go_on
from preheat.prepare import Outcome
from preheat.shim.layout import shim_folder
from preheat.spec import PipelineSpec
from preheat.termination_message import message_path

log = logging.getLogger(__name__)


def default_volume(environment: Mapping[str, str]) -> Path:
    """Where bundles are kept when nobody says where."""
    if volume := environment.get("PREHEAT_VOLUME"):
        return Path(volume)
    cache = environment.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "preheat"


def provide(spec: PipelineSpec, name: str, volume: Path, shim: str) -> dict[str, str]:
    """Give this process the bundle of `spec`, and return the variables that tell the command of it.

    `shim` is `auto`, `manual` or `off`. Raises what the loader raises, and then nothing is left to train with; where
    `onFailure: Continue` passes over it, the variables lead to the reason why there is no bundle.
    """
    volume, process = volume.expanduser().absolute(), owner_here()
    forget_ended(volume / PODS)
    with shim_folder() as laid_out:
        beside = None if shim == "off" else laid_out
        done = load_or_go_on(Settings(spec, Pipeline(name), volume, process, beside, message_path({})))
    if isinstance(done, Outcome):
        _say(done)
    folder = volume / PODS / process
    show_life(folder)
    told = {"PREHEAT_BUNDLE": str(folder / BUNDLE_LINK), "PREHEAT_SHIM": shim, "PREHEAT_POD_UID": process}
    told["PREHEAT_ON_FAILURE"] = spec.on_failure
    return told if shim == "off" else told | {"PYTHONPATH": _in_front(folder / SHIM_FOLDER, os.environ)}


def _say(outcome: Outcome) -> None:
    how, totals = "there already" if outcome.reused else "made", outcome.manifest.totals
    said = f"{count_of(totals.tensors, 'tensor')}, {size_text(totals.selected_bytes)}"
    log.info("the bundle was %s, in %.2f s: %s", how, outcome.seconds, said)


def become(command: Sequence[str], variables: Mapping[str, str]) -> NoReturn:
    """Run `command` in place of this process, with `variables` added to the environment; raises OSError."""
    # Python ignores these two for itself, and what is ignored would stay so in the command.
    for number in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(number, signal.SIG_DFL)
    os.execvpe(command[0], list(command), {**os.environ, **variables})  # noqa: S606 - the user's own command


def _in_front(folder: Path, environment: Mapping[str, str]) -> str:
    return os.pathsep.join(filter(None, [str(folder), environment.get("PYTHONPATH")]))
