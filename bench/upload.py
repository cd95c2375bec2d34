"""Put files into a bucket once, in parts, with a CRC-64 of the whole. Usage: upload.py ENDPOINT BUCKET STORED FILE...

STORED is the folder in which the server keeps the bucket: a file becomes a link to its object there, so that both are
warm or cold together, and take their room in the page cache once.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import boto3

endpoint, bucket, stored, *files = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
if bucket not in (found["Name"] for found in client.list_buckets()["Buckets"]):
    client.create_bucket(Bucket=bucket)
for file in map(Path, files):
    kept = Path(stored, file.name)
    if not (kept.exists() and kept.samefile(file)):
        client.upload_file(str(file), bucket, file.name, ExtraArgs={"ChecksumAlgorithm": "CRC64NVME"})
        link = file.with_suffix(".link")
        os.link(kept, link)
        link.rename(file)
