"""An index that is read before it is asked for is its own blob's, whatever else is read meanwhile."""

from __future__ import annotations

import gc

from formats.samples import BytesBlob, Member, pickled, tensor_call, zip_of

from preheat import formats

ARCHIVE = zip_of([Member("a/data.pkl", pickled({"w": tensor_call()})), Member("a/data/0", bytes(16))])


def test_it_is_given_once_and_to_its_blob_alone() -> None:
    blob, other = BytesBlob(ARCHIVE), BytesBlob(ARCHIVE)
    index = formats.read_ahead(blob)
    assert formats.read_index(other) is not index  # an equal one, and one that cannot be hashed
    assert formats.read_index(blob) is index
    assert formats.read_index(blob) is not index


def test_it_goes_with_its_blob() -> None:
    blob = BytesBlob(ARCHIVE)
    known = id(blob)
    formats.read_ahead(blob)
    del blob
    gc.collect()
    assert known not in formats._ahead
