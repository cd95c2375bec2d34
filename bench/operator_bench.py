"""What the benchmarks of the operator begin with: their options, and a real API server with a thousand pipelines."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from api_server import ApiServer, api_server, memory
from installation import prepare
from workload import fill


def options_of(
    words: Sequence[str] | None, prog: str, description: str | None, seconds: tuple[int, str]
) -> argparse.Namespace:
    """The options of a benchmark; `seconds` are how long something is measured, and what."""
    parser = argparse.ArgumentParser(prog=prog, description=description)
    parser.add_argument("--docs", action="store_true", help="write the table of docs/benchmarks.md, too")
    parser.add_argument("--seconds", type=int, default=seconds[0], help=seconds[1])
    return parser.parse_args(words)


@contextmanager
def filled_server() -> Iterator[ApiServer]:
    """An API server that knows the resource and holds a thousand pipelines, in memory."""
    with tempfile.TemporaryDirectory(prefix="preheat-bench-", dir=memory()) as folder, api_server(Path(folder)) as api:
        prepare(api)
        fill(api)
        yield api
