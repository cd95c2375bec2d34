import os
import re
from pathlib import Path

import pytest

from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    SourceChangedError,
    TruncatedError,
    UnsupportedFormatError,
)
from preheat.file_blob import FileBlob
from preheat.sources.local import LocalSource

CONTENT = os.urandom(100_000)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "model").write_bytes(CONTENT)
    return tmp_path / "model"


def test_any_range_is_read_exactly(path: Path) -> None:
    blob = FileBlob(path)
    buffer = memoryview(bytearray(999))
    for start, stop in ((0, 100_000), (5, 5), (7, 4000), (99_999, 100_000)):
        assert blob.read(start, stop) == CONTENT[start:stop]
        assert b"".join(bytes(view) for view in blob.stream(start, stop, buffer)) == CONTENT[start:stop]
    blob.close()
    blob.close()


def test_bytes_beyond_the_end_are_named(path: Path) -> None:
    blob = FileBlob(path)
    with pytest.raises(TruncatedError, match=r"bytes 5\.\.\.100001; it ends at 100000"):
        blob.read(5, 100_001)
    blob.close()


def test_a_file_that_is_rewritten_or_cut_is_refused(path: Path) -> None:
    blob = FileBlob(path)
    path.write_bytes(CONTENT[::-1])
    with pytest.raises(SourceChangedError, match="changed while it was read"):
        blob.read(0, 10)
    blob.close()
    blob = FileBlob(path)
    os.truncate(path, 50)
    with pytest.raises(SourceChangedError):
        blob.read(0, 1000)
    blob.close()


def test_a_file_that_is_replaced_by_rename_stays_what_it_was(path: Path) -> None:
    blob = FileBlob(path)
    path.with_name("new").write_bytes(b"new")
    path.with_name("new").rename(path)
    assert blob.read(0, 10) == CONTENT[:10]
    blob.close()
    newer = FileBlob(path)
    assert newer.version != blob.version
    newer.close()


def test_links_are_followed(path: Path) -> None:
    path.with_name("latest").symlink_to(path)
    blob = FileBlob(path.with_name("latest"))
    assert blob.size == len(CONTENT)
    blob.close()


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        ("missing", CheckpointNotFoundError, "there is no file .*/missing$"),
        ("model/x", CheckpointNotFoundError, "there is no file .*/model/x$"),
        ("mod", CheckpointNotFoundError, r"there is no file .*/mod; there is model$"),
        ("models/x", CheckpointNotFoundError, "there is no file .*/models/x, nor its folder$"),
        (".", UnsupportedFormatError, "is a folder"),
        ("pipe", UnsupportedFormatError, "not a regular file"),
    ],
)
def test_what_is_no_file_is_named(path: Path, name: str, error: type[CheckpointError], message: str) -> None:
    os.mkfifo(path.with_name("pipe"))
    with pytest.raises(error) as caught:
        FileBlob(path.parent / name)
    assert re.search(message, caught.value.args[0])


@pytest.mark.parametrize("url", ["s3://bucket/a.ckpt", "https://host/a.ckpt?signature=hunter2", "hf://org/model"])
def test_a_url_is_no_path(url: str) -> None:
    """Anemoi's source looks for a file of that name."""
    with pytest.raises(
        CheckpointConfigError, match=r"is a URL, no path\. Use s3, http, huggingFace or fsspec"
    ) as caught:
        LocalSource(url)
    assert "hunter2" not in str(caught.value)


@pytest.mark.skipif(os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(path: Path) -> None:
    path.chmod(0)
    with pytest.raises(AccessDeniedError, match="may not read"):
        FileBlob(path)
