import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sources.fault_server import FaultServer

from preheat.blob import Patience
from preheat.bundle.store import digest_of
from preheat.errors import (
    AccessDeniedError,
    CheckpointConfigError,
    CheckpointNotFoundError,
    CheckpointSourceError,
    CheckpointTimeoutError,
    SourceChangedError,
    UnsupportedFormatError,
)
from preheat.sources import attempts
from preheat.sources.fallback import FallbackSource
from preheat.sources.http import HTTPSource
from preheat.sources.local import LocalSource
from preheat.sources.named import NamedSource
from preheat.sources.run import RunSource
from preheat.sources.s3 import S3Source
from preheat.spec import parse
from preheat.spelling import build, spell

CONTENT = os.urandom(1000)


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)


@pytest.fixture
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.ckpt", CONTENT)
        yield running


@pytest.fixture
def there(tmp_path: Path) -> LocalSource:
    (tmp_path / "model.ckpt").write_bytes(CONTENT)
    return LocalSource(str(tmp_path / "model.ckpt"))


def test_the_first_that_has_it_is_read_and_no_other_is_asked(server: FaultServer, there: LocalSource) -> None:
    blob = FallbackSource((there, HTTPSource(server.origin + "/model.ckpt"))).open(Patience(0, 5))
    assert (blob.uri, blob.read(0, 1000)) == (there.uri, CONTENT)
    assert server.requests == []
    blob.close()


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ({"status": 404}, "NotFound"),
        ({"status": 403}, "AccessDenied"),
        ({"status": 503}, "SourceUnreachable"),
        ({"drop": True}, "SourceUnreachable"),
        ({"stall_after": 0}, "Timeout"),
    ],
    ids=str,
)
def test_one_that_cannot_be_read_is_passed_over_and_the_log_says_why(
    server: FaultServer, there: LocalSource, fault: dict[str, object], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    server.always(**fault)
    first = HTTPSource(server.origin + "/model.ckpt?signature=secret")
    with caplog.at_level(logging.INFO, "preheat"):
        blob = FallbackSource((first, there)).open(Patience(0, 0.2))
    assert blob.uri == there.uri
    blob.close()
    passed, taken = caplog.messages
    assert passed.startswith(f"passed over {first.uri}: {reason}: {first.uri}")
    assert taken == f"taking {there.uri}"
    assert "secret" not in caplog.text.replace("secretRef", "")


def test_a_folder_without_checkpoint_is_passed_over(tmp_path: Path, there: LocalSource) -> None:
    (tmp_path / "empty").mkdir()
    blob = FallbackSource((LocalSource(str(tmp_path / "empty")), there)).open(Patience())
    assert blob.uri == there.uri
    blob.close()


def test_what_is_beside_the_checkpoint_is_looked_for_in_the_same_places(there: LocalSource) -> None:
    beside = FallbackSource((S3Source("b", "run/k"), there)).beside("k.sig")
    assert beside.uri == f"s3://b/run/k.sig, else {Path(there.path).parent}/k.sig"


def test_what_another_source_would_only_hide_is_an_error(
    server: FaultServer, there: LocalSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.always(status=412)
    with pytest.raises(SourceChangedError):
        FallbackSource((HTTPSource(server.origin + "/model.ckpt"), there)).open(Patience(0, 5))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnsupportedFormatError, match="not a regular file"):
        FallbackSource((LocalSource(str(tmp_path / "pipe")), there)).open(Patience())
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", "sécret")
    with pytest.raises(CheckpointConfigError, match="the token of secretRef"):
        FallbackSource((HTTPSource(server.origin + "/model.ckpt"), there)).open(Patience())


def test_when_none_has_it_every_answer_is_told(server: FaultServer) -> None:
    one, other = HTTPSource(server.origin + "/one"), HTTPSource(server.origin + "/other")
    with pytest.raises(CheckpointNotFoundError) as caught:
        FallbackSource((one, other)).open(Patience(0, 5))
    message = str(caught.value)
    assert message.startswith("none of 2 sources can be read: ")
    assert f"{one.uri}: NotFound: " in message
    assert f"{other.uri}: NotFound: " in message
    server.next(status=403)
    with pytest.raises(CheckpointSourceError, match=r"AccessDenied.*NotFound") as caught:
        FallbackSource((one, other)).open(Patience(0, 5))
    assert caught.value.reason == "SourceUnreachable"
    server.always(status=401)
    with pytest.raises(AccessDeniedError):
        FallbackSource((one, other)).open(Patience(0, 5))
    server.always(stall_after=0)
    with pytest.raises(CheckpointTimeoutError):
        FallbackSource((HTTPSource(server.origin + "/model.ckpt"),)).open(Patience(0, 0.2))


def test_bundles_of_different_places_have_different_names(server: FaultServer, there: LocalSource) -> None:
    spec = parse(
        {"stages": [{"fallback": {"sources": [spell(HTTPSource(server.origin + "/model.ckpt")), spell(there)]}}]}
    )
    digests = []
    for fault in ({}, {"status": 404}):
        server.always(**fault)
        blob = spec.source.open(Patience(0, 5))
        digests.append(digest_of(blob.uri, blob.version, spec))
        blob.close()
    assert digests[0] != digests[1]


def test_both_spellings_build_it_and_it_is_spelled_as_it_was_written() -> None:
    nested = [{"s3": {"bucket": "b", "key": "k", "versionId": "7"}}, {"http": {"url": "https://h/k"}}]
    source = build({"fallback": {"sources": nested}})
    assert source == FallbackSource((S3Source("b", "k", version_id="7"), HTTPSource("https://h/k")))
    assert spell(source) == {"fallback": {"sources": nested}}
    targets = [
        {"_target_": "preheat.sources.S3Source", "bucket": "b", "key": "k", "version_id": "7"},
        {"_target_": "preheat.sources.HTTPSource", "url": "https://h/k"},
    ]
    assert build({"_target_": "preheat.sources.FallbackSource", "sources": targets}) == source
    assert source.uri == "s3://b/k, else https://h/k"


@pytest.mark.parametrize(
    ("sources", "says"),
    [
        ([], "must not be empty"),
        ({"s3": {}}, "give a list"),
        ("s3", "give a list"),
        ([{"verify": {}}], r"sources\[0\]: Verify is no source"),
        ([{"s3": {"bucket": "b"}}], r"sources\[0\]\.s3: .*key"),
        ([{"fallback": {"sources": [{"local": {"path": "/a"}}]}}], "a fallback in a fallback"),
        ([{"local": {"path": "/a"}}] * 9, "longer than the allowed 8"),
    ],
    ids=str,
)
def test_what_cannot_be_meant_is_refused(sources: object, says: str) -> None:
    with pytest.raises(CheckpointConfigError, match=says):
        build({"fallback": {"sources": sources}})


def test_two_secrets_for_the_same_variables_are_refused_with_the_way_out() -> None:
    one, other = S3Source("a", "k", secret_ref="one"), S3Source("b", "k", secret_ref="other")
    with pytest.raises(
        CheckpointConfigError,
        match=r"s3://a/k .*Secret 'one', s3://b/k with Secret 'other'.* AWS_ACCESS.*same Secret in both.*anonymous",
    ):
        FallbackSource((one, other))
    with pytest.raises(CheckpointConfigError, match="with no Secret"):
        FallbackSource((HTTPSource("https://internal/k", secret_ref="token"), HTTPSource("https://public/k")))
    anonymous = HTTPSource("https://public/k", anonymous=True)
    both = FallbackSource((HTTPSource("https://internal/k", secret_ref="token"), anonymous, one))
    assert {(secret, each.variable) for secret, each in both.secrets} == {
        *(("token", f"PREHEAT_HTTP_{name}") for name in ("TOKEN", "USERNAME", "PASSWORD")),
        *(("one", f"AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "SESSION_TOKEN")),
    }
    assert len(FallbackSource((one, one)).secrets) == 3


def test_secrets_of_places_in_which_a_checkpoint_is_looked_for_count_as_well() -> None:
    run = RunSource(S3Source("runs", "a/", secret_ref="one"))
    named = NamedSource("x.pth", bucket=S3Source("zoo", "b/", secret_ref="other"))
    with pytest.raises(CheckpointConfigError, match=r"Secret 'one', s3://zoo/b/ with Secret 'other'"):
        FallbackSource((run, named))
    assert {secret for secret, _ in FallbackSource((run, S3Source("b", "k", secret_ref="one"))).secrets} == {"one"}


def test_an_anonymous_source_is_sent_no_credentials(server: FaultServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREHEAT_HTTP_TOKEN", "token")
    HTTPSource(server.origin + "/model.ckpt", anonymous=True).open(Patience(0, 5)).close()
    assert "Authorization" not in server.requests[0].headers
    with pytest.raises(CheckpointConfigError, match="anonymous reads without credentials"):
        HTTPSource("https://h/k", anonymous=True, secret_ref="token")
