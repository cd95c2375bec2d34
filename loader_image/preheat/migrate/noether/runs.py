"""Noether's runs: `<output path>/<run id>[/<stage>]/checkpoints/{model}[_{info}]_cp={tag}_model.th`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from preheat.migrate.choices import ListedFirst
from preheat.migrate.migration import Draft
from preheat.migrate.settings import Settings
from preheat.migrate.traced import Traced, some

_LETTERS = {"epoch": "E", "update": "U", "sample": "S"}


def run_source(
    settings: Settings, draft: Draft, run: Traced, tag: Traced, parts: Mapping[str, Traced], root: Traced | None = None
) -> Traced:
    """The source of one of a run's checkpoints; `parts` are stage, model and info, where they are given."""
    root = root or settings["output_path"] or run.made("outputs")
    select = tag.made(_selector(tag.value))
    draft.settled.add(tag.keys[0])  # which may be a mapping
    _about_selector(draft, select)
    folder = "/".join(map(str, filter(None, (root, run, parts.get("stage"), "checkpoints"))))
    model, info = parts.get("model"), parts.get("info")
    draft.choice = ListedFirst(folder, str(model) if model else None, str(select), str(info) if info else None)
    where = {"root": draft.place(root), "runId": run.made(str(run)), **some(stage=parts.get("stage")), "select": select}
    return run.made({"run": {**where, **some(model=model, info=info), "layout": run.made("noether")}})


def _selector(tag: Any) -> str:
    """A tag, or the mapping that Noether takes as well: `{epoch: 10}`."""
    if isinstance(tag, Mapping):
        return "_".join(f"{letter}{tag[name]}" for name, letter in _LETTERS.items() if tag.get(name) is not None)
    return str(tag)


def _about_selector(draft: Draft, select: Traced) -> None:
    text = str(select)
    resumed = select.keys[0] == "resume_checkpoint"
    if resumed and re.fullmatch(r"E\d+_U\d+_S\d+", text):
        draft.remark("is fully specified, which Noether refuses here and Preheat takes", select)
    elif resumed and re.match(r"[EUS](?!\d+$)", text):
        draft.remark(
            "begins like a number and is none, with which Noether ends in a ValueError: it is a tag here", select
        )
    elif resumed and re.match(r"best(_model)?\.", text):
        draft.remark(
            "is weights alone in what Noether saves, so a warm start is refused: make it `weightsOnly`, or save with "
            "preheat.save, whose best is a pointer to a whole checkpoint",
            select,
        )
