"""Where a checkpoint is saved and what it is called: `<root>/<run id>/<stage>/checkpoints/<name>`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from preheat.errors import CheckpointConfigError
from preheat.runs.names import checked_name
from preheat.runs.position import Position

CHECKPOINTS = "checkpoints"
DEFAULT_MODEL = "model"

_ADDRESS = re.compile(r"^[a-z][a-z0-9+.-]+:/")  # what a path makes of s3://bucket
_PART = re.compile(r"^[^./\\\x00-\x1f][^/\\\x00-\x1f]{0,254}$")


@dataclass(frozen=True)
class Place:
    """Of one model's checkpoint; without a run id `root` is the run's own folder."""

    root: Path
    position: Position
    model: str = DEFAULT_MODEL
    info: str = ""
    part: str = ""
    run_id: str = ""
    stage: str = ""
    template: str | None = None

    def __post_init__(self) -> None:
        """Refuse an address: it would become a folder of that name."""
        if _ADDRESS.match(str(self.root)):
            raise CheckpointConfigError(
                f"{self.root} is no folder: a checkpoint is saved to a volume or a disk",
                remedy="Save to a folder, and ship what is finished from there with preheat upload",
            )

    @property
    def home(self) -> Path:
        """The folder of all checkpoints of the run, or of its stage."""
        parts = [_checked(what, name) for what, name in (("run_id", self.run_id), ("stage", self.stage)) if name]
        return self.root.joinpath(*parts, CHECKPOINTS)

    @property
    def called(self) -> str:
        """The model, or the part of it that is saved."""
        return f"{self.model}.{self.part}" if self.part else self.model

    @property
    def folder(self) -> Path:
        """The checkpoint's own."""
        return self.home / (self.name if self.template is None else self._by_template(self.template))

    @property
    def name(self) -> str:
        """By the grammar: `{model}[_{info}]_cp=E10_U100_S200`."""
        return str(checked_name(self.called, str(self.position), self.info))

    def pointer(self, tag: str) -> Path:
        """The file that names the checkpoint that is `tag`."""
        return self.home / f"{checked_name(self.called, tag, self.info)}.json"

    def _by_template(self, template: str) -> str:
        facts = {"model": self.called, "info": self.info, "run_id": self.run_id, "stage": self.stage}
        position = {"epoch": self.position.epoch, "update": self.position.update, "sample": self.position.sample}
        try:
            name = template.format(**facts, **position)
        except (KeyError, IndexError, ValueError, AttributeError) as error:
            raise CheckpointConfigError(
                f"template {template!r:.200} cannot be filled: {type(error).__name__}: {error}",
                remedy=f"It may hold {', '.join(f'{{{each}}}' for each in (*facts, *position))}",
            ) from error
        return _checked("template", name)


def _checked(what: str, name: str) -> str:
    if not _PART.match(name):
        raise CheckpointConfigError(f"{what}: {name!r:.200} cannot be the name of a folder")
    return name
