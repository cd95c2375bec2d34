import os
import socket
import threading
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sources import tls
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    SourceChangedError,
    TruncatedError,
)
from preheat.sources import attempts, http_connection
from preheat.sources.http import HTTPSource
from preheat.sources.http_blob import TAIL, HttpBlob
from preheat.sources.http_connection import Connection, Target

CONTENT = os.urandom(700_001)
SIZE = len(CONTENT)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CONTENT)
        yield running


def open_blob(server: FaultServer, path: str = "/model.ckpt", retries: int = 1, timeout: float = 5) -> HttpBlob:
    url = server.origin + path
    return HttpBlob(url, uri=url.partition("?")[0], headers={}, patience=Patience(retries, timeout))


def collect(blob: HttpBlob, start: int, stop: int, buffer: int = 65_536) -> bytes:
    return b"".join(bytes(view) for view in blob.stream(start, stop, memoryview(bytearray(buffer))))


def test_one_request_tells_size_and_version_and_brings_the_end(server: FaultServer) -> None:
    blob = open_blob(server)
    assert blob.size == SIZE
    assert blob.version.startswith('etag:"')
    assert blob.read(SIZE - TAIL, SIZE) == CONTENT[-TAIL:]
    assert len(server.requests) == 1
    blob.close()


@pytest.mark.parametrize(
    ("start", "stop"), [(0, SIZE), (0, 0), (0, 1), (5, 200_000), (SIZE - TAIL - 5, SIZE - 3), (SIZE, SIZE), (1, SIZE)]
)
def test_any_range_is_read_exactly(server: FaultServer, start: int, stop: int) -> None:
    blob = open_blob(server)
    assert blob.read(start, stop) == CONTENT[start:stop]
    assert collect(blob, start, stop, 70_001) == CONTENT[start:stop]
    blob.close()


def test_a_small_object_comes_with_the_first_request_even_from_a_server_without_ranges(server: FaultServer) -> None:
    server.serve("/small", b"abc")
    server.always(ignore_range=True)
    blob = open_blob(server, "/small")
    assert blob.read(0, 3) == b"abc"
    assert len(server.requests) == 1
    blob.close()


def test_connections_are_kept_and_shared_by_threads(server: FaultServer) -> None:
    blob = open_blob(server)
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(lambda at: blob.read(at, at + 1000), range(0, 500_000, 1000)))
    assert b"".join(parts) == CONTENT[:500_000]
    assert len(blob._exchanges._connections._idle) <= 4
    blob.close()


def test_every_read_after_the_first_carries_the_version(server: FaultServer) -> None:
    blob = open_blob(server)
    blob.read(0, 10)
    assert "If-Match" not in server.requests[0].headers
    assert server.requests[1].headers["If-Match"] == blob.version.removeprefix("etag:")
    blob.close()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"headers": {"ETag": 'W/"1"'}}, {"headers": {"ETag": 'W/"2"'}}),
        ({"without": ("ETag",)}, {"without": ("ETag",), "headers": {"Last-Modified": "Sun, 02 Nov 2025 10:00:00 GMT"}}),
    ],
    ids=["weak ETag", "date"],
)
def test_a_weak_etag_and_a_date_pin_by_comparison(
    server: FaultServer, one: dict[str, object], other: dict[str, object]
) -> None:
    server.always(**one)
    blob = open_blob(server)
    blob.read(0, 10)
    assert "If-Match" not in server.requests[1].headers
    server.always(**other)
    with pytest.raises(SourceChangedError):
        blob.read(0, 10)
    blob.close()


def test_a_replaced_object_is_refused(server: FaultServer) -> None:
    blob = open_blob(server)
    server.serve("/model.ckpt", os.urandom(SIZE))
    with pytest.raises(SourceChangedError, match="replaced while it was read"):
        blob.read(0, 10)
    blob.close()


def test_another_etag_is_noticed_where_the_server_ignores_if_match(server: FaultServer) -> None:
    blob = open_blob(server)
    server.next(headers={"ETag": '"other"'})
    with pytest.raises(SourceChangedError):
        blob.read(0, 10)
    blob.close()


@pytest.mark.parametrize(
    "fault",
    [
        {"cut_after": 100_000},
        {"drop": True},
        {"status": 503, "headers": {"Retry-After": "0"}},
        {"status": 429},
        {"status": 500},
    ],
    ids=str,
)
def test_a_passing_fault_is_retried_from_the_byte_reached(server: FaultServer, fault: dict[str, object]) -> None:
    blob = open_blob(server, retries=2)
    before = server.sent
    server.next(count=2, **fault)
    assert collect(blob, 0, 600_000) == CONTENT[:600_000]
    assert server.sent - before <= 600_000 + 2 * 65_536  # the tail that a cut leaves in the sockets' buffers
    blob.close()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"cut_after": 1000}, TruncatedError),
        ({"drop": True}, CheckpointSourceError),
        ({"status": 503}, CheckpointSourceError),
        ({"status": 403}, AccessDeniedError),
        ({"status": 401}, AccessDeniedError),
        ({"status": 404}, CheckpointNotFoundError),
        ({"status": 410}, CheckpointNotFoundError),
        ({"status": 412}, SourceChangedError),
        ({"status": 418}, CheckpointSourceError),
        ({"ignore_range": True}, CheckpointSourceError),
        ({"headers": {"Content-Range": "bytes 0-9/700001"}}, CheckpointSourceError),
        ({"headers": {"Content-Range": f"bytes 0-299999/{SIZE + 1}"}}, SourceChangedError),
        ({"without": ("Content-Range",)}, CheckpointSourceError),
        ({"headers": {"Content-Encoding": "gzip"}}, CheckpointSourceError),
        ({"headers": {"Content-Length": "299999"}}, CheckpointSourceError),
    ],
    ids=str,
)
def test_a_lasting_fault_is_named(server: FaultServer, fault: dict[str, object], error: type[CheckpointError]) -> None:
    blob = open_blob(server)
    server.always(**fault)
    with pytest.raises(error) as caught:
        blob.read(0, 300_000)
    assert type(caught.value) is error
    assert "/model.ckpt" in str(caught.value)
    blob.close()


@pytest.mark.parametrize("fault", [{"stall_after": 100}, {"drip": 0.01}], ids=str)
def test_no_progress_ends_in_a_timeout(server: FaultServer, fault: dict[str, object]) -> None:
    blob = open_blob(server, timeout=0.4)
    server.always(**fault)
    with pytest.raises(CheckpointTimeoutError):
        blob.read(0, 300_000)
    blob.close()


def test_a_slow_server_that_makes_progress_is_waited_for(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "PROGRESS", 4)
    blob = open_blob(server, timeout=0.3)
    server.next(drip=0.005)
    assert blob.read(0, 100) == CONTENT[:100]
    blob.close()


def test_faults_far_apart_in_one_long_read_do_not_add_up(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "RENEWAL", 100_000)
    blob = open_blob(server, retries=1)
    server.next(3, cut_after=150_000)
    assert collect(blob, 0, SIZE) == CONTENT
    server.next(3, cut_after=50_000)
    with pytest.raises(TruncatedError):
        collect(blob, 0, SIZE)
    blob.close()


def test_a_wish_to_wait_longer_than_the_patience_fails_at_once(server: FaultServer) -> None:
    server.always(status=503, headers={"Retry-After": "3600"})
    with pytest.raises(CheckpointSourceError, match="503"):
        open_blob(server, retries=5)
    assert len(server.requests) == 1


def test_connection_refused_and_unknown_hosts_are_named() -> None:
    for url in ("http://127.0.0.1:9/x", "http://nowhere.invalid/x"):
        with pytest.raises(CheckpointSourceError, match="cannot be reached"):
            HttpBlob(url, uri=url, headers={}, patience=Patience(0, 2))


def test_a_server_without_ranges_or_version_is_refused(server: FaultServer) -> None:
    server.always(ignore_range=True)
    with pytest.raises(CheckpointSourceError, match="does not serve byte ranges"):
        open_blob(server)
    server.always(without=("ETag", "Last-Modified"))
    with pytest.raises(CheckpointSourceError, match="neither ETag nor Last-Modified"):
        open_blob(server)


def test_a_server_that_knows_no_ranges_from_the_end_is_asked_from_the_start(server: FaultServer) -> None:
    server.next(ignore_range=True)
    blob = open_blob(server)
    assert blob.read(0, SIZE) == CONTENT
    blob.close()


def test_redirects_are_followed_without_credentials_and_remembered(server: FaultServer) -> None:
    with FaultServer().running() as other:
        url = other.serve("/elsewhere", CONTENT)
        server.next(status=302, headers={"Location": url + "?signature=secret"})
        blob = HttpBlob(
            server.origin + "/model.ckpt", uri="x", headers={"Authorization": "Bearer t"}, patience=Patience(0, 5)
        )
        assert blob.read(0, 10) == CONTENT[:10]
        assert server.requests[0].headers["Authorization"] == "Bearer t"
        assert all("Authorization" not in request.headers for request in other.requests)
        assert (len(server.requests), len(other.requests)) == (1, 2)
        other.next(status=403)  # the signature has expired: the first URL gives a new one
        server.next(status=302, headers={"Location": url + "?signature=new"})
        assert blob.read(0, 10) == CONTENT[:10]
        assert other.requests[-1].path.endswith("new")
        blob.close()


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("http://169.254.169.254/latest/meta-data/", "metadata"),
        ("http://[fd00:ec2::254]/latest/meta-data/", "metadata"),
        ("http://[fd00:ec2::23]/v1/credentials", "metadata"),  # EKS Pod Identity
        ("http://[fd20:ce::254]/computeMetadata/v1/", "metadata"),
        ("http://[fd00:c1::a9fe:a9fe]/opc/v2/", "metadata"),
        ("http://168.63.129.16/machine?comp=goalstate", "metadata"),
        ("http://[::ffff:169.254.169.254]/latest/", "metadata"),
        ("ftp://127.0.0.1/x", "ftp"),
        ("file:///etc/passwd", "file"),
        ("http://user:pass@127.0.0.1/x", "credentials"),
    ],
)
def test_redirects_to_forbidden_places_are_refused(
    server: FaultServer, location: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No packet leaves: the address is reached through a loopback socket that only claims to be the metadata service.
    server.always(status=302, headers={"Location": location})
    monkeypatch.setattr(http_connection.HTTPConnection, "connect", _connect_locally(server))
    with pytest.raises(CheckpointSourceError, match=message) as caught:
        open_blob(server, retries=0, timeout=1)
    assert "pass@" not in str(caught.value)
    assert len(server.requests) == 1


def _connect_locally(server: FaultServer) -> object:
    connect = http_connection.HTTPConnection.connect

    class Claiming:
        def __init__(self, host: str) -> None:
            self.host = host

        def getpeername(self) -> tuple[str, int]:
            return self.host, 80

        def close(self) -> None:
            pass

    def local(connection: http_connection.HTTPConnection) -> None:
        if connection.host == "127.0.0.1":
            connect(connection)
        else:
            connection.sock = Claiming(connection.host)  # type: ignore[assignment]

    return local


def test_a_redirect_loop_ends(server: FaultServer) -> None:
    server.always(status=302, headers={"Location": "/model.ckpt"})
    with pytest.raises(CheckpointSourceError, match="redirects more than 5 times"):
        open_blob(server)
    assert len(server.requests) == 6


def test_a_redirect_without_a_place_to_go_is_named(server: FaultServer) -> None:
    server.always(status=301)
    with pytest.raises(CheckpointSourceError, match="answered 301"):
        open_blob(server)


@pytest.mark.parametrize("pin", [{"headers": {"ETag": 'W/"1"'}, "without": ("Last-Modified",)}, {"without": ("ETag",)}])
def test_an_answer_that_names_no_version_is_refused_where_nothing_was_demanded(
    server: FaultServer, pin: dict[str, object]
) -> None:
    server.always(**pin)
    blob = open_blob(server)
    server.always(without=("ETag", "Last-Modified"))
    with pytest.raises(SourceChangedError):
        blob.read(0, 10)
    blob.close()


def test_letters_beyond_ascii_in_a_query_are_encoded(server: FaultServer) -> None:
    open_blob(server, "/model.ckpt?name=é&a=%C3%A9+{}").close()
    assert server.requests[-1].path == "/model.ckpt?name=%C3%A9&a=%C3%A9+{}"


@pytest.mark.parametrize("header", ["Content-Length", "Retry-After"])
def test_numbers_that_are_none_are_survived(server: FaultServer, header: str) -> None:
    server.always(status=503 if header == "Retry-After" else None, headers={header: "\xb2"})
    with pytest.raises(CheckpointSourceError):
        open_blob(server)


def test_a_proxy_that_cannot_be_parsed_is_not_quoted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://me:pass/word@proxy:3128")
    with pytest.raises(CheckpointConfigError) as caught:
        HttpBlob("http://example.invalid/x", uri="x", headers={}, patience=Patience(0, 5))
    assert "pass" not in str(caught.value)


def test_https_never_becomes_http() -> None:
    target = http_connection.Target.parse("https://a.example/x")
    with pytest.raises(CheckpointSourceError, match="drop the encryption"):
        target.redirect("http://a.example/x")
    assert target.redirect("y?q=1").path == "/y?q=1"


def test_the_query_is_in_no_message(server: FaultServer) -> None:
    for fault in ({"status": 403}, {"status": 404}, {"drop": True}, {"ignore_range": True}, {"status": 503}):
        server.always(**fault)
        with pytest.raises(CheckpointError) as caught:
            open_blob(server, "/model.ckpt?token=hunter2", retries=0)
        assert "hunter2" not in str(caught.value)


def test_a_secret_that_is_not_there_is_named(server: FaultServer) -> None:
    with pytest.raises(AccessDeniedError, match="Secret 'tokne' is missing, or has none of the keys token"):
        HTTPSource(server.origin + "/model.ckpt", secret_ref="tokne").open(Patience(0, 5))


def test_a_secret_that_ends_in_a_line_break_is_sent_without_it(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = HTTPSource(server.origin + "/model.ckpt")
    monkeypatch.setenv("PREHEAT_HTTP_USERNAME", "me\n")
    monkeypatch.setenv("PREHEAT_HTTP_PASSWORD", "pass\r\n")
    source.open(Patience(0, 5)).close()
    assert server.requests[-1].headers["Authorization"] == "Basic " + b64encode(b"me:pass").decode()
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", "secret\n")
    source.open(Patience(0, 5)).close()
    assert server.requests[-1].headers["Authorization"] == "Bearer secret"


@pytest.mark.parametrize("token", ["sec\nret", "sec\tret", "sécret", "secr€t"])
def test_a_token_that_no_header_carries_is_refused_unquoted(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", token)
    with pytest.raises(CheckpointConfigError) as caught:
        HTTPSource("http://127.0.0.1:1/x").open(Patience(0, 5))
    assert "sec" not in str(caught.value).replace("secretRef", "").replace("Secret", "")
    assert caught.value.__context__ is None


def test_proxies_of_the_environment_are_used(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", server.origin.replace("http://", "http://user:pa%3Ass@"))
    server.serve("http://checkpoints.invalid:80/model.ckpt", CONTENT)
    url = "http://checkpoints.invalid/model.ckpt"
    blob = HttpBlob(url, uri=url, headers={}, patience=Patience(0, 5))
    assert blob.read(0, 10) == CONTENT[:10]
    assert server.requests[0].headers["Proxy-Authorization"] == "Basic dXNlcjpwYTpzcw=="
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    direct = open_blob(server)
    assert server.requests[-1].path == "/model.ckpt"
    blob.close()
    direct.close()


def test_an_untrusted_certificate_is_refused_without_retries(self_signed: tuple[str, str]) -> None:
    with (
        tls.serving(self_signed, "/file", b"abc") as url,
        pytest.raises(CheckpointSourceError, match="certificate is not trusted"),
    ):
        HttpBlob(url, uri=url, headers={}, patience=Patience(3, 5))


def test_an_authority_that_the_source_names_is_trusted(self_signed: tuple[str, str]) -> None:
    bundle = "# Gefälschte Stelle\n" + Path(self_signed[0]).read_text()
    with tls.serving(self_signed, "/file", b"abc") as url:
        blob = HTTPSource(url, ca_bundle=bundle).open(Patience(0, 5))
        assert blob.read(0, 3) == b"abc"
        blob.close()


def test_a_ca_bundle_that_is_none_is_refused_unquoted(self_signed: tuple[str, str]) -> None:
    with pytest.raises(CheckpointConfigError, match="holds no certificate"):
        HTTPSource("https://example.invalid/", ca_bundle="see the wiki")
    with pytest.raises(CheckpointConfigError, match="holds a private key") as caught:
        HTTPSource("https://example.invalid/", ca_bundle="".join(Path(file).read_text() for file in self_signed))
    assert "MI" not in str(caught.value)
    broken = Path(self_signed[0]).read_text()[:100] + "\n-----END CERTIFICATE-----\n"
    with pytest.raises(CheckpointConfigError, match=r"certificates of caBundle cannot be read.*BEGIN"):
        HTTPSource("https://example.invalid/", ca_bundle=broken).open(Patience(0, 5))


def test_https_goes_through_a_proxys_tunnel_with_the_targets_certificate_checked(
    self_signed: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls.serving(self_signed, "/file", b"abc") as url, tunnel() as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:pa%3Ass@127.0.0.1:{proxy.server_port}")
        blob = HTTPSource(url, ca_bundle=Path(self_signed[0]).read_text()).open(Patience(0, 5))
        assert blob.read(0, 3) == b"abc"
        blob.close()
        assert proxy.asked == [(url.removeprefix("https://").removesuffix("/file"), "Basic bWU6cGE6c3M=")]
        with pytest.raises(CheckpointSourceError, match="not trusted"):
            HTTPSource(url).open(Patience(0, 5))
        monkeypatch.setenv("HTTPS_PROXY", f"http://me:wrong@127.0.0.1:{proxy.server_port}")
        with pytest.raises(CheckpointSourceError, match=r"cannot be reached: .*407") as caught:
            HTTPSource(url).open(Patience(0, 5))
        assert "wrong" not in str(caught.value)


@contextmanager
def tunnel() -> Iterator[Any]:
    """A proxy that opens tunnels for user `me` with password `pa:ss`; `asked` keeps where to and by whom."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_CONNECT(self) -> None:
            authorization = self.headers.get("Proxy-Authorization", "")
            if authorization != "Basic bWU6cGE6c3M=":
                return self.send_error(407)
            proxy.asked.append((self.path, authorization))
            host, _, port = self.path.rpartition(":")
            with socket.create_connection((host, int(port))) as target:
                self.send_response(200)
                self.end_headers()
                back = threading.Thread(target=pump, args=(target, self.connection))
                back.start()
                pump(self.connection, target)
                back.join()

    def pump(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
            other.shutdown(socket.SHUT_WR)

    proxy: Any = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    proxy.daemon_threads, proxy.asked = True, []
    thread = threading.Thread(target=proxy.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
        thread.join()


@pytest.fixture(scope="module")
def self_signed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return tls.self_signed(tmp_path_factory.mktemp("tls"))


def test_a_connection_that_is_ended_before_its_first_request_sends_none(server: FaultServer) -> None:
    connection = Connection(Target.parse(server.serve("/model", b"x")), 5, None)
    connection.abort()
    with pytest.raises(ConnectionResetError):
        connection.get("/model", {})
    connection.close()
    assert server.requests == []


def test_a_server_that_serves_few_connections_at_once_is_asked_until_it_has_time(
    server: FaultServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.1)  # long enough for others to be served on a busy machine
    blob = open_blob(server, retries=3, timeout=30)
    server.most = 2
    with ThreadPoolExecutor(16) as pool:
        for content in pool.map(lambda number: collect(blob, number, SIZE), range(60)):
            assert content in CONTENT
    assert server.refused > 5
    blob.close()


def test_a_server_that_serves_nobody_is_given_up_after_the_retries(server: FaultServer) -> None:
    blob = open_blob(server, retries=2)
    server.most, asked = 0, len(server.requests)
    with pytest.raises(CheckpointSourceError, match="503"):
        collect(blob, 0, SIZE // 2)
    assert len(server.requests) - asked == 3
    blob.close()
