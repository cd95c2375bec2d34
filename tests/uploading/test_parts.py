from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from preheat.uploading.parts import MOST_PARTS, PART, Begun, Received, begun_in, completion, parts_of, received_in

KEYS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20)


@given(st.integers(1, 60 << 40))
def test_parts_cover_a_file_once_and_are_as_large_and_as_few_as_s3_demands(size: int) -> None:
    parts = parts_of(size)
    assert (parts[0].start, parts[-1].stop) == (0, size)
    assert all(one.stop == other.start for one, other in pairwise(parts))
    assert len(parts) <= MOST_PARTS
    assert all(part.stop - part.start >= PART for part in parts[:-1])
    assert [part.number for part in parts] == list(range(1, len(parts) + 1))


def test_the_newest_upload_of_a_key_comes_first_and_others_do_not_count() -> None:
    document = b"""<ListMultipartUploadsResult>
      <Upload><Key>a/b &amp; c</Key><UploadId>1</UploadId><Initiated>2026-01-01T00:00:00Z</Initiated></Upload>
      <Upload><Key>a/b &amp; c.json</Key><UploadId>2</UploadId><Initiated>2026-01-03T00:00:00Z</Initiated></Upload>
      <Upload><Key>a/b &amp; c</Key><UploadId>3</UploadId><Initiator><ID>x</ID></Initiator>
        <Initiated>2026-01-02T00:00:00Z</Initiated><ChecksumAlgorithm>CRC32</ChecksumAlgorithm></Upload>
    </ListMultipartUploadsResult>"""
    assert begun_in(document, "a/b & c") == [
        Begun("3", "2026-01-02T00:00:00Z", "CRC32"),
        Begun("1", "2026-01-01T00:00:00Z"),
    ]


@given(st.lists(st.builds(Received, st.integers(1, 9999), KEYS, st.just(0), st.just("AAAAAAAAAAA="))))
def test_what_is_said_of_parts_is_read_back(parts: list[Received]) -> None:
    document = completion(parts).replace(b"</ETag>", b"</ETag><Size>0</Size>")
    assert received_in(document) == parts
