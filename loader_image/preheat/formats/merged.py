"""Several checkpoints as one: an index over the bytes of all of them, one behind the other.

Nothing is copied to merge them. Of each some tensors are taken, under other names; two that would be called the same
are refused, because which of them is meant nobody can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

from preheat.blob import Blob
from preheat.errors import CheckpointConfigError, CheckpointIncompatibleError, about
from preheat.formats.layouts import averaged
from preheat.index import Index, Origin, Part, Record, Tensor
from preheat.joined_blob import JoinedBlob, Member
from preheat.mapping import NameMapping
from preheat.packed import PackedTensors

NO_TRAINING = "a warm start goes on with one training, a merge is of several: use weightsOnly, or coldStart"

NOT_VOUCHED_FOR = "Leave it out: what is merged has no digest or signature of its own"

#: What stands between the URIs, and the versions, of those that were merged.
BESIDE = " + "
#: Characters of all versions together, beyond which a digest of them takes their place.
_LONGEST_VERSION = 600
_LONGEST_URI = 800
_SHOWN = 3  # names in a message


@dataclass(frozen=True, eq=False)
class Taking:
    """What is taken of one of the checkpoints; the same one may give tensors twice, under different names."""

    where: str  # of the pipeline
    checkpoint: int
    mapping: NameMapping
    ema: str | None


class MergedBlob(JoinedBlob):
    """The bytes of several checkpoints, and what is taken of each."""

    verified_by = NOT_VOUCHED_FOR

    def __init__(self, checkpoints: Sequence[Blob], takings: Sequence[Taking]) -> None:
        super().__init__(listed(blob.uri for blob in checkpoints), [(blob.uri, blob) for blob in checkpoints])
        self.takings = tuple(takings)
        versions = BESIDE.join(blob.version for blob in checkpoints)
        if len(versions) <= _LONGEST_VERSION:
            self.version = versions


def listed(uris: Iterable[str]) -> str:
    """The URIs, for a person, in the length that one may have."""
    uris = list(dict.fromkeys(uris))
    shown = len(uris)
    while shown > 1 and len(BESIDE.join(uris[:shown])) > _LONGEST_URI:
        shown -= 1
    return BESIDE.join([*uris[:shown], *([f"{len(uris) - shown} more"] if shown < len(uris) else [])])


Read = Callable[[Blob], Index]


def read_merged(blob: MergedBlob, read_index: Read) -> Index:
    """The index of all that is taken; raises CheckpointIncompatibleError where two would have the same name.

    One checkpoint's index is read after the other's, and kept for no longer than it takes.
    """
    tensors, found = PackedTensors(), list[Index]()
    for number, member in enumerate(blob.members):
        index, used = _read(member.blob, read_index), set[str]()
        for taking in (each for each in blob.takings if each.checkpoint == number):
            weights = _weights(taking, index)
            for new, old in _mapped(blob, taking, weights).items():
                if new in tensors:
                    raise _given_twice(blob, taking, tensors, read_index)
                tensors.add(new, _placed(weights.tensors[old], member, {old: new}))
                used.add(old)
        found.append(replace(index, tensors={}, origins=(_origin(member, index, used),)))
    return Index(
        format=", ".join(dict.fromkeys(index.format for index in found)),
        layout="merge",
        tensors=tensors,
        state={"sources": [index.state for index in found]},
        opaque=tuple(sorted({name for index in found for name in index.opaque})),
        metadata_bytes=sum(index.metadata_bytes for index in found),
        origins=tuple(origin for index in found for origin in index.origins),
    )


def _read(blob: Blob, read_index: Read) -> Index:
    with about(blob.uri):
        return read_index(blob)


def _weights(taking: Taking, index: Index) -> Index:
    return averaged(index, taking.ema) if taking.ema else index


def _mapped(blob: MergedBlob, taking: Taking, index: Index) -> Mapping[str, str]:
    with _said_of(taking.where, blob.members[taking.checkpoint].blob.uri):
        return taking.mapping.mapping(index.tensors)


@contextmanager
def _said_of(where: str, uri: str) -> Iterator[None]:
    """Errors that leave this block say which of the checkpoints does not fit what is asked of it."""
    try:
        yield
    except (CheckpointConfigError, CheckpointIncompatibleError) as error:
        raise type(error)(f"{where}, {uri}: {error.args[0]}", remedy=error.remedy) from error


def _placed(tensor: Tensor, member: Member, names: Mapping[str, str]) -> Tensor:
    """The tensor where it is in the whole; a record that is called as its tensor is called as that is now."""
    record = tensor.record
    name = f"{member.name}: {names.get(record.name, record.name)}"
    there = Record(name, member.start + record.start, member.start + record.stop, record.crc32)
    parts = tuple(Part(part.corner, _placed(part.tensor, member, names)) for part in tensor.parts)
    return replace(tensor, record=there, parts=parts)


def _origin(member: Member, index: Index, used: set[str]) -> Origin:
    """What the checkpoint is; bytes that a tensor shares with one that was taken are not left out."""
    taken = {index.tensors[name].start for name in used if name in index.tensors}
    unused = {name: index.tensors[name] for name in index.tensors if name not in used}
    left = {tensor.start: tensor.size for tensor in unused.values() if tensor.start not in taken}
    blob = member.blob
    return Origin(
        *(blob.uri, blob.version, blob.size, index.format, index.layout, member.start), len(unused), sum(left.values())
    )


def _given_twice(
    blob: MergedBlob, taking: Taking, tensors: Container[str], read_index: Read
) -> CheckpointIncompatibleError:
    """Who the two are; found out when it has happened, so that nobody has to remember who gave what."""
    names = {each: _given(blob, each, read_index) for each in blob.takings}
    twice = [name for name in names[taking] if name in tensors]
    other = next(each for each in blob.takings if each is not taking and names[each].keys() & set(twice))
    both = [name for name in twice if name in names[other]]
    one, two = (
        f"{each.where} ({blob.members[each.checkpoint].blob.uri})" for each in blob.takings if each in (taking, other)
    )
    more = f" and {len(both) - _SHOWN} more" if len(both) > _SHOWN else ""
    return CheckpointIncompatibleError(
        f"{one} and {two} both give {', '.join(both[:_SHOWN])}{more}",
        remedy="Select or exclude in one of them, or tell them apart with addPrefix or rename",
    )


def _given(blob: MergedBlob, taking: Taking, read_index: Read) -> dict[str, None]:
    """The names that a source gives, in their order."""
    index = _weights(taking, _read(blob.members[taking.checkpoint].blob, read_index))
    return dict.fromkeys(_mapped(blob, taking, index))
