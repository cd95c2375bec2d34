"""Headers that no good server sends end in errors of Preheat's. Found by `make fuzz`."""

from __future__ import annotations

import math

import pytest

from preheat.errors import CheckpointSourceError
from preheat.sources.http_answer import content_length, content_range, retry_after
from preheat.sources.http_connection import Target


@pytest.mark.parametrize("location", ["//[", "https://a]b/", "//:\0", "http://[::1"])
def test_a_redirect_to_what_is_no_url_is_refused(location: str) -> None:
    with pytest.raises(CheckpointSourceError):
        Target.parse("https://example.org/model").redirect(location)


@pytest.mark.parametrize("value", ["9" * 5000, "1 Jan 99999999999999 0:00:00 +0000", "soon", "-1"])
def test_a_wait_that_no_clock_can_measure_is_none_or_endless(value: str) -> None:
    assert retry_after({"Retry-After": value}, 1.7e9) in (None, math.inf)


@pytest.mark.parametrize("digits", [20, 5000])
def test_a_size_that_no_object_can_have_is_no_size(digits: int) -> None:
    assert content_range({"Content-Range": f"bytes 0-7/{'9' * digits}"}) is None
    assert content_length({"Content-Length": "9" * digits}) is None
