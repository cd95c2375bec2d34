"""Where Anemoi's runs are: `<root>/<run id>/last.ckpt`."""

from __future__ import annotations

from preheat.migrate.choices import ThatFile
from preheat.migrate.migration import Draft
from preheat.migrate.places import folder
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced


def run_source(settings: Settings, draft: Draft, run: Traced) -> Traced:
    """The source of a run's last checkpoint."""
    root = _root(settings, run)
    draft.choice = ThatFile(f"{root}/{run}/last.ckpt")
    where = {"root": draft.place(root), "runId": run.made(str(run)), "select": run.made("last")}
    return run.made({"run": {**where, "layout": run.made("anemoi")}})


def _root(settings: Settings, run: Traced) -> Traced:
    """The folder that runs are in. A resolved configuration names the run's own, below it."""
    root = settings["hardware.paths.checkpoints"]
    if root is None:
        below = settings["system.output.checkpoints.root"]
        above = settings.first("system.output.root", "hardware.paths.output")
        root = folder(above, below or "checkpoint") if above else below or run.made("checkpoint")
    return root.made(str(root).rstrip("/").removesuffix(f"/{run}"))
