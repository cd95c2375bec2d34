"""Headers that no good server sends end in errors of Preheat's. Found by `make fuzz`."""

from __future__ import annotations

import pytest

from preheat.errors import CheckpointSourceError
from preheat.sources.http_connection import Target


@pytest.mark.parametrize("location", ["//[", "https://a]b/", "//:\0", "http://[::1"])
def test_a_redirect_to_what_is_no_url_is_refused(location: str) -> None:
    with pytest.raises(CheckpointSourceError):
        Target.parse("https://example.org/model").redirect(location)
