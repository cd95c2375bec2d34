"""Preheat's transfer where the ranges are known, as the libraries beside it are used. Usage: as `peer_clients.py`

    told_ranges.py ENDPOINT BUCKET KEY OUTPUT RANGES

RANGES is a file with a JSON list of [start, stop). No index is read, so there are no checksums to compare.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from preheat.blob import Patience
from preheat.checks import Checks
from preheat.index import Index, Record, Tensor
from preheat.plan import make_plan
from preheat.sources.s3 import S3Source
from preheat.spec import PipelineSpec
from preheat.transfer.engine import transfer

endpoint, bucket, key, output, ranges = sys.argv[1:]
spans = json.loads(Path(ranges).read_text())
tensors = {str(start): Tensor("U8", (stop - start,), Record(str(start), start, stop)) for start, stop in spans}
source = S3Source(bucket, key, endpoint=endpoint, region="us-east-1", addressing="path")
blob = source.open(Patience())
plan = make_plan(Index("ranges", "raw", tensors), PipelineSpec(()))
transfer(plan, blob, Path(output), Checks(crc32=False, finite=False))
blob.close()
