"""The processes of a training stop together, or go on with the same checkpoint.

Each says in the group's store how it fared; the last one to come compares, and the first one to fail decides at once.
No collective is used: a process that is gone or late is a reason to stop after a while, never a hang.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from time import monotonic, sleep
from typing import Any

from preheat import errors
from preheat.bundle.data import CheckpointData
from preheat.errors import (
    TOUCHED,
    CheckpointConfigError,
    CheckpointError,
    CheckpointIncompatibleError,
    CheckpointTimeoutError,
)

#: Seconds that a process waits for the others at each step, unless PREHEAT_RANKS_TIMEOUT says otherwise.
TIMEOUT = 600.0

#: Facts that may differ between processes whose `model` differs, as those of a pipeline of models do.
_MODEL = "model"

#: In the order in which a process comes to them; some may be left out.
_STEPS = ("open", "gather", "match", "adapt", "load", "go on", "copy", "shard", "save")
_SAMPLES, _SAMPLE = 16, 4096
_LEAVING = 10.0  # seconds; who has heard the verdict leaves at once
_APPLYING = "apply the checkpoint"

_applications = count()  # all processes apply the same number of times, so equal numbers meet


class Ranks:
    """The processes of torch's default group while they apply a checkpoint, or save one: `call` is what they called."""

    def __init__(
        self, store: Any, rank: int, world: int, timeout: float, call: str = "preheat.apply", doing: str = _APPLYING
    ) -> None:
        self.rank, self.world = rank, world
        self._call, self._doing = call, doing
        self.waited = 0.0  # seconds
        self._store, self._timeout = store, timeout
        self._next = 0  # step

    @contextmanager
    def together(self, step: str) -> Iterator[dict[str, str]]:
        """Compare the facts that the block leaves behind; raise what any process met in it."""
        facts: dict[str, str] = {}
        try:
            yield facts
        except Exception as error:
            self._fail(step, error)
            raise
        started = monotonic()
        self._agree(step, facts)
        self._next = _STEPS.index(step) + 1
        self.waited += monotonic() - started

    def from_first(self, step: str, make: Callable[[], str]) -> str:
        """What `make` gives on the first rank, for all of them; called within `together(step)`."""
        place = f"{step}/first"
        if self.rank == 0:
            said = make()
            self._store.set(place, said)
            return said
        deadline, pause = monotonic() + self._timeout, 0.001
        while not self._store.check([place]):
            if self._store.check([f"{step}/verdict"]):  # the first one failed
                self._heed(step, self._verdict(step))
            if monotonic() > deadline:
                self._decide(step, self._absent(step, (0,)))
            sleep(pause)
            pause = min(pause * 1.5, 0.25)
        return str(self._store.get(place).decode())

    def opened(self, data: object) -> dict[str, str]:
        """What has to be equal of a checkpoint that each process opened at its source; a bundle's was compared."""
        if isinstance(data, CheckpointData) and data.manifest is None:
            return {"checkpoint": identity(data)}
        return {}

    def tell(self, what: str, text: str) -> None:
        """Leave a text for the first rank, which asks for it after a step that all of them left."""
        self._store.set(f"{what}/{self.rank}", text)

    def told(self, what: str) -> list[str]:
        """What each rank left, for the first rank; it is there once."""
        keys = [f"{what}/{rank}" for rank in range(self.world)]
        texts = [self._store.get(key).decode() for key in keys]
        for key in keys:
            self._store.delete_key(key)
        return texts

    def leave(self, *steps: str) -> None:
        """Remove what was said at these steps, when all ranks have left them: a training saves many times.

        The first rank waits for that: where it ends, the store of the others may end with it.
        """
        deadline = monotonic() + _LEAVING
        while self.rank == 0 and self._store.add("left", 0) < self.world - 1 and monotonic() < deadline:
            sleep(0.001)
        if self._store.add("left", 1) == self.world:
            for step in steps:
                for key in ("came", "decided", "verdict", "first", *range(self.world)):
                    self._store.delete_key(f"{step}/{key}")
            self._store.delete_key("left")

    def _agree(self, step: str, facts: Mapping[str, str]) -> None:
        try:
            self._store.set(f"{step}/{self.rank}", json.dumps(facts))
            if self._store.add(f"{step}/came", 1) == self.world:
                self._decide(step, self._difference(step))
            verdict = self._verdict(step)
        except RuntimeError as error:  # torch's for every failure of a store
            raise CheckpointError(
                f"the other ranks cannot be reached: {error}", remedy="Look at what the first rank that ended says"
            ) from error
        self._heed(step, verdict)

    def _heed(self, step: str, verdict: Mapping[str, str] | None) -> None:
        if verdict:
            kind = getattr(errors, verdict["class"], CheckpointError)
            touched = f"; {TOUCHED}" if step == "load" and TOUCHED not in verdict["message"] else ""
            raised = kind(verdict["message"] + touched, remedy=verdict["remedy"])
            raised.continuable = kind.continuable and "absent" not in verdict  # without a rank there is no training
            raise raised

    def _fail(self, step: str, error: Exception) -> None:
        """Tell the others, also those that wait at a step which this process did not come to."""
        try:
            for each in _STEPS[self._next : _STEPS.index(step) + 1]:
                self._decide(each, _described(error, f"rank {self.rank}: "))
        except RuntimeError:
            pass  # the store is gone: what is raised is the reason that counts

    def _decide(self, step: str, verdict: Mapping[str, str] | None) -> None:
        if self._store.add(f"{step}/decided", 1) == 1:
            self._store.set(f"{step}/verdict", json.dumps(verdict))

    def _verdict(self, step: str) -> dict[str, str] | None:
        deadline, pause = monotonic() + self._timeout, 0.001
        while not self._store.check([f"{step}/verdict"]):
            if monotonic() > deadline:
                self._decide(step, self._absent(step, range(self.world)))
                deadline += self._timeout
            sleep(pause)
            pause = min(pause * 1.5, 0.25)
        verdict: dict[str, str] | None = json.loads(self._store.get(f"{step}/verdict"))
        return verdict

    def _absent(self, step: str, ranks: Iterable[int]) -> dict[str, str]:
        absent = [str(rank) for rank in ranks if not self._store.check([f"{step}/{rank}"])]
        names = f"{', '.join(absent[:8]) or '?'}{' and others' if absent[8:] else ''}"
        error = CheckpointTimeoutError(
            f"rank {names} did not come to {self._doing} ({step}) {self._timeout:g} s after rank {self.rank}",
            remedy=f"Call {self._call} at the same place on all ranks; look at what those ranks say; "
            "PREHEAT_RANKS_TIMEOUT allows for more seconds, 0 lets each rank go on by itself",
        )
        return {**_described(error), "absent": names}

    def _difference(self, step: str) -> dict[str, str] | None:
        said = [json.loads(self._store.get(f"{step}/{rank}")) for rank in range(self.world)]
        first: dict[tuple[str, str | None], int] = {}
        for rank, facts in enumerate(said):
            for name, value in facts.items():
                if name == _MODEL:
                    continue
                other = first.setdefault((name, facts.get(_MODEL)), rank)
                if (wanted := said[other][name]) != value:
                    error = CheckpointIncompatibleError(
                        f"the ranks differ in the {name}: rank {other} has {wanted}, rank {rank} {value}",
                        remedy="Give all ranks the same bundle and the same model",
                    )
                    return _described(error)
        return None


def group() -> Any:
    """torch.distributed in a process that is in its default group; None in any other, where nothing is imported."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed if distributed and distributed.is_available() and distributed.is_initialized() else None


def present(call: str = "preheat.apply", doing: str = _APPLYING) -> Ranks | None:
    """The default group's processes; None where there is no group yet, one process, or agreement is turned off."""
    if (distributed := group()) is None or (timeout := _timeout()) == 0 or distributed.get_world_size() == 1:
        return None
    store = distributed.PrefixStore(f"preheat/{next(_applications)}", distributed.distributed_c10d._get_default_store())
    return Ranks(store, distributed.get_rank(), distributed.get_world_size(), timeout, call, doing)


@contextmanager
def all_or_none(step: str, doing: str) -> Iterator[Ranks | None]:
    """A block outside of `apply` that all processes come to, and leave well, or none does."""
    if (ranks := present(doing=doing)) is None:
        yield None
        return
    with ranks.together(step):
        yield ranks
    ranks.leave(step)


def identity(data: CheckpointData) -> str:
    """What a process sees of a checkpoint: its version, what it declares, and samples of its bytes."""
    manifest, blob = data.manifest, data.blob
    digest = hashlib.sha256(repr([blob.size, *sorted(data.index.tensors.items())]).encode())
    if manifest:
        digest.update(json.dumps([manifest.digest, manifest.stages, manifest.files, str(manifest.tensors)]).encode())
    for start in () if blob.remote else range(0, blob.size, max(blob.size // _SAMPLES, _SAMPLE)):
        digest.update(blob.read(start, min(start + _SAMPLE, blob.size)))
    source = f"{manifest.source.uri} version {manifest.source.version}" if manifest else f"{blob.uri} {blob.version}"
    return f"{source} ({digest.hexdigest()[:16]})"


def outcome(report: Any) -> dict[str, str]:
    """What became of the model, for processes that have the same one."""
    frozen = [name for name, size in report.sizes.items() if size.get("frozen")]
    names = [sorted(report.loaded), sorted(report.skipped.items()), sorted(report.left_initial.items()), frozen]
    counts = f"{len(report.loaded)} loaded, {len(report.skipped)} skipped, {len(frozen)} frozen"
    model = [(name, size["dtype"], size["shape"]) for name, size in report.sizes.items()]
    return {_MODEL: _digest(model), "tensors": f"{counts} ({_digest(names)})"}


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def _timeout() -> float:
    given = os.environ.get("PREHEAT_RANKS_TIMEOUT", "")
    try:
        seconds = float(given or TIMEOUT)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise CheckpointConfigError(f"PREHEAT_RANKS_TIMEOUT is {given!r}, not a number of seconds")
    return seconds


def _described(error: Exception, where: str = "") -> dict[str, str]:
    """As JSON; a class of others is described by the nearest one of Preheat's."""
    known = next((c for c in type(error).__mro__ if c.__module__ == errors.__name__), CheckpointError)
    message = error.args[0] if isinstance(error, CheckpointError) and error.args else f"{type(error).__name__}: {error}"
    return {"class": known.__name__, "message": f"{where}{message}", "remedy": getattr(error, "remedy", "")}
