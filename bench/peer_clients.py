"""The peers that are libraries. Usage: peer_clients.py FUNCTION ENDPOINT BUCKET KEY OUTPUT [RANGES]

Runs in the peers' environment. RANGES is a file with a JSON list of [start, stop); their bytes go to OUTPUT in order.
"""

from __future__ import annotations

import json
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

REGION = "us-east-1"
PART, STREAMS = 8 << 20, 16

Spans = list[tuple[int, int]]


def _boto3(endpoint: str) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client("s3", endpoint_url=endpoint, region_name=REGION, config=Config(max_pool_connections=32))


def boto3(endpoint: str, bucket: str, key: str, output: str) -> None:
    from boto3.s3.transfer import TransferConfig

    _boto3(endpoint).download_file(bucket, key, output, Config=TransferConfig(preferred_transfer_client="classic"))


def boto3_tuned(endpoint: str, bucket: str, key: str, output: str) -> None:
    from boto3.s3.transfer import TransferConfig

    config = TransferConfig(
        preferred_transfer_client="classic", max_concurrency=32, multipart_chunksize=32 << 20, io_chunksize=1 << 20
    )
    _boto3(endpoint).download_file(bucket, key, output, Config=config)


def upload_boto3(endpoint: str, bucket: str, key: str, file: str) -> None:
    from boto3.s3.transfer import TransferConfig

    _boto3(endpoint).upload_file(file, bucket, key, Config=TransferConfig(preferred_transfer_client="classic"))


def boto3_crt(endpoint: str, bucket: str, key: str, output: str) -> None:
    """Wired by hand: what boto3 makes of its own accord forgets the endpoint."""
    import botocore.session
    from s3transfer.crt import (
        BotocoreCRTCredentialsWrapper,
        BotocoreCRTRequestSerializer,
        CRTTransferManager,
        create_s3_crt_client,
    )

    session = botocore.session.get_session()
    wrapper = BotocoreCRTCredentialsWrapper(session.get_credentials())
    client = create_s3_crt_client(
        REGION, wrapper.to_crt_credentials_provider(), use_ssl=endpoint.startswith("https"),
        verify=os.environ.get("AWS_CA_BUNDLE"),
    )  # fmt: skip
    serializer = BotocoreCRTRequestSerializer(session, {"endpoint_url": endpoint, "region_name": REGION})
    with CRTTransferManager(client, serializer) as manager:
        manager.download(bucket, key, output).result()


def awscrt_plain(endpoint: str, bucket: str, key: str, output: str, verified: bool = False) -> None:
    from awscrt.auth import AwsCredentialsProvider
    from awscrt.http import HttpHeaders, HttpRequest
    from awscrt.io import ClientTlsContext, TlsContextOptions
    from awscrt.s3 import S3ChecksumConfig, S3Client, S3RequestTlsMode, S3RequestType

    tls: dict[str, Any] = {"tls_mode": S3RequestTlsMode.DISABLED}
    if endpoint.startswith("https"):
        options = TlsContextOptions()
        options.override_default_trust_store_from_path(None, os.environ["AWS_CA_BUNDLE"])
        tls = {"tls_connection_options": ClientTlsContext(options).new_connection_options()}
    provider = AwsCredentialsProvider.new_environment()
    client = S3Client(region=REGION, credential_provider=provider, **tls)
    headers = HttpHeaders([("Host", urlsplit(endpoint).netloc)])
    client.make_request(
        type=S3RequestType.GET_OBJECT, request=HttpRequest("GET", f"/{bucket}/{key}", headers), recv_filepath=output,
        checksum_config=S3ChecksumConfig(validate_response=True) if verified else None,
    ).finished_future.result()  # fmt: skip


def awscrt_verified(endpoint: str, bucket: str, key: str, output: str) -> None:
    awscrt_plain(endpoint, bucket, key, output, verified=True)


def _obstore(endpoint: str, bucket: str) -> Any:
    from obstore.store import S3Store

    trusted = os.environ.get("AWS_CA_BUNDLE")
    return S3Store(
        bucket, endpoint=endpoint, region=REGION, virtual_hosted_style_request=False,
        access_key_id=os.environ["AWS_ACCESS_KEY_ID"], secret_access_key=os.environ["AWS_SECRET_ACCESS_KEY"],
        client_options={"allow_http": True, **({"allow_invalid_certificates": True} if trusted else {})},
    )  # fmt: skip


def obstore_stream(endpoint: str, bucket: str, key: str, output: str) -> None:
    with Path(output).open("wb") as file:
        for chunk in _obstore(endpoint, bucket).get(key).stream(min_chunk_size=PART):
            file.write(chunk)


def obstore_ranges(endpoint: str, bucket: str, key: str, output: str) -> None:
    _parts(_obstore(endpoint, bucket), key, output)


def _parts(store: Any, key: str, output: str) -> None:
    size = store.head(key)["size"]
    file = os.open(output, os.O_RDWR | os.O_CREAT)
    os.truncate(file, size)

    def fetch(start: int) -> None:
        os.pwrite(file, store.get_range(key, start=start, end=min(start + PART, size)), start)

    _together(fetch, range(0, size, PART), STREAMS)


def _together(work: Any, items: Any, threads: int) -> None:
    with ThreadPoolExecutor(threads) as pool:
        found: list[Future[Any]] = [pool.submit(work, item) for item in items]
    for future in found:
        future.result()


def scattered_obstore(endpoint: str, bucket: str, key: str, output: str, spans: Spans) -> None:
    starts, stops = zip(*spans, strict=True)
    with Path(output).open("wb") as file:
        for part in _obstore(endpoint, bucket).get_ranges(key, starts=starts, ends=stops):
            file.write(part)


def scattered_boto3(endpoint: str, bucket: str, key: str, output: str, spans: Spans) -> None:
    client, file = _boto3(endpoint), os.open(output, os.O_RDWR | os.O_CREAT)
    places = [(span, sum(stop - start for start, stop in spans[:n])) for n, span in enumerate(spans)]

    def fetch(place: tuple[tuple[int, int], int]) -> None:
        (start, stop), at = place
        answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{stop - 1}")
        os.pwrite(file, answer["Body"].read(), at)

    _together(fetch, places, 32)


def scattered_fsspec(endpoint: str, bucket: str, key: str, output: str, spans: Spans) -> None:
    import fsspec

    store = fsspec.filesystem("s3", client_kwargs={"endpoint_url": endpoint, "region_name": REGION})
    starts, stops = zip(*spans, strict=True)
    with Path(output).open("wb") as file:
        for part in store.cat_ranges([f"{bucket}/{key}"] * len(spans), list(starts), list(stops)):
            file.write(part)


if __name__ == "__main__":
    name, *where = sys.argv[1:6]
    given = [[tuple(span) for span in json.loads(Path(sys.argv[6]).read_text())]] if len(sys.argv) > 6 else []
    globals()[name](*where, *given)
