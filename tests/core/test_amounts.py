import pytest

from preheat.amounts import ago, bytes_of, parameters_text, seconds_of, size_text
from preheat.errors import CheckpointConfigError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        ("123", 123),
        ("200Gi", 200 * 2**30),
        ("200GiB", 200 * 2**30),
        ("5GB", 5 * 10**9),
        ("5 GB", 5 * 10**9),
        ("1.5T", 1_500_000_000_000),
        ("2k", 2000),
        ("2K", 2000),
        ("1Ki", 1024),
        ("0.1Gi", 107_374_182),
    ],
)
def test_a_size_is_read_as_it_is_written_anywhere(text: str, expected: int) -> None:
    assert bytes_of(text) == expected


@pytest.mark.parametrize("text", ["", "Gi", "-1", "1m", "1gi", "1e3", "5 apples", "1,5G", "nan"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(CheckpointConfigError, match="is not a size"):
        bytes_of(text)


@pytest.mark.parametrize(
    ("text", "expected"), [("90", 90), ("30m", 1800), ("12h", 43_200), ("7d", 604_800), ("1w", 604_800)]
)
def test_a_time_has_its_unit(text: str, expected: float) -> None:
    assert seconds_of(text) == expected


@pytest.mark.parametrize("text", ["", "d", "-1d", "7 days", "1y"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(CheckpointConfigError, match="is not a time"):
        seconds_of(text)


@pytest.mark.parametrize(
    ("seconds", "said"), [(-3, "0 s"), (59, "59 s"), (60, "1 min"), (7300, "2 h"), (200_000, "2 d")]
)
def test_the_past_is_told_to_one_unit(seconds: float, said: str) -> None:
    assert ago(seconds) == said


@pytest.mark.parametrize(
    ("size", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (999_949, "999.9 kB"), (999_950, "1.0 MB"),
                       (12_345_678, "12.3 MB"), (999_950_000, "1.00 GB"), (1_600_000_000_000, "1,600.00 GB")]
)  # fmt: skip
def test_a_size_is_said_in_the_unit_that_fits(size, text):
    assert size_text(size) == text


@pytest.mark.parametrize(
    ("count", "text"), [(1, "1 parameter"), (3510, "3,510 parameters"), (55_100_000, "55.1 M parameters")]
)
def test_a_small_model_has_parameters_too(count, text):
    assert parameters_text(count) == text
