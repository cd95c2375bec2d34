"""Put files into a bucket. Usage: upload.py ENDPOINT BUCKET FILE..."""

from __future__ import annotations

import sys
from pathlib import Path

import boto3

endpoint, bucket, *files = sys.argv[1:]
client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
client.create_bucket(Bucket=bucket)
for file in files:
    client.upload_file(file, bucket, Path(file).name)
