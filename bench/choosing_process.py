"""A process that lists a run in a bucket and chooses its newest checkpoint; prints seconds and counts."""

from __future__ import annotations

import sys
import time
from typing import Any

from preheat.blob import Patience
from preheat.runs.listing import Listing
from preheat.sources import s3_listing
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source


def main() -> None:
    """List, then choose from what was listed."""
    endpoint, bucket, run = sys.argv[1:]
    requests, read = [0], s3_listing.read_page

    def counted(*answer: Any) -> s3_listing.Page:
        requests[0] += 1
        return read(*answer)

    s3_listing.read_page = counted
    root = S3Source(bucket, "/", endpoint=endpoint, region="us-east-1", addressing="path")
    source = RunSource(root, run_id=run).for_training()
    began = time.monotonic()
    listing = Listing(source.place.tree(Patience()))
    listed = time.monotonic()
    newest = next(iter(source.among(listing)))
    chosen = time.monotonic()
    assert newest.checkpoint.position
    print(f"names={len(listing.entries)} requests={requests[0]} listing={listed - began} beyond={chosen - listed}")


if __name__ == "__main__":
    main()
