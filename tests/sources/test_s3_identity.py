"""Whose credentials S3 is asked with: a profile's, a traded token's, the container service's; and who pays."""

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from sources import tls
from sources.fault_server import FaultServer, _Handler

from preheat.blob import Blob, Patience
from preheat.errors import AccessDeniedError, CheckpointConfigError, CheckpointSourceError
from preheat.sources import attempts
from preheat.sources.s3 import S3Source

CONTENT = os.urandom(300_000)
ROLE = "arn:aws:iam::123456789012:role/trainer"


class AmazonServer(FaultServer):
    """S3, STS and the container credential service as far as identities go: keys are handed out, checked, revoked."""

    def __init__(self) -> None:
        super().__init__()
        self._http.RequestHandlerClass = type("Handler", (_AmazonHandler,), {"owner": self})
        self.traded: list[str] = []  # tokens that were shown to get a key
        self.valid = ""  # the access key that S3 accepts

    def trade(self, token: str) -> dict[str, str]:
        self.traded.append(token)
        self.valid = f"KEY{len(self.traded)}"
        soon = datetime.now(UTC) + timedelta(minutes=2)  # so near that every further signature asks again
        return {
            "AccessKeyId": self.valid,
            "SecretAccessKey": "secret",
            "SessionToken": f"session-{self.valid}",
            "Expiration": soon.strftime("%Y-%m-%dT%H:%M:%SZ"),
        }


class _AmazonHandler(_Handler):
    owner: AmazonServer

    def do_POST(self) -> None:  # noqa: N802
        """STS."""
        asked = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        assert (asked["Action"], asked["RoleArn"]) == (["AssumeRoleWithWebIdentity"], [ROLE])
        [token] = asked["WebIdentityToken"]
        if token.startswith("stranger"):
            error = (
                b"<ErrorResponse><Error><Code>InvalidIdentityToken</Code><Message>m</Message></Error></ErrorResponse>"
            )
            return self._reply(400, error)
        fields = "".join(f"<{name}>{value}</{name}>" for name, value in self.owner.trade(token).items())
        result = (
            f"<AssumeRoleWithWebIdentityResult><Credentials>{fields}</Credentials></AssumeRoleWithWebIdentityResult>"
        )
        name = "AssumeRoleWithWebIdentityResponse"
        self._reply(200, f'<{name} xmlns="https://sts.amazonaws.com/doc/2011-06-15/">{result}</{name}>'.encode())

    def do_GET(self) -> None:  # noqa: N802
        """The container credential service at /credentials, else S3."""
        if self.path == "/credentials":
            found = self.owner.trade(self.headers["Authorization"])
            return self._reply(200, json.dumps({**found, "Token": found["SessionToken"]}).encode())
        query = parse_qs(urlsplit(self.path).query)
        [credential] = query.get("X-Amz-Credential", [""])
        if credential.partition("/")[0] != self.owner.valid:
            return self._reply(400, b"<Error><Code>ExpiredToken</Code></Error>")
        super().do_GET()

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")  # botocore would leave it open
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def amazon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[AmazonServer]:
    monkeypatch.setattr(attempts, "FIRST_PAUSE", 0.01)
    for name in [name for name in os.environ if name.startswith("AWS_") or name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with AmazonServer().running() as server:
        assert isinstance(server, AmazonServer)
        server.serve("/b/k", CONTENT)
        yield server


def open_blob(server: AmazonServer, **more: Any) -> Blob:
    return S3Source("b", "k", endpoint=server.origin, addressing="path", **more).open(Patience(1, 10))


@pytest.fixture(params=["web identity", "pod identity"])
def token(
    request: pytest.FixtureRequest, amazon: AmazonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Path:
    """The projected token of a ServiceAccount, and the variables that EKS puts beside it."""
    file = tmp_path / "token"
    file.write_text("first")
    if request.param == "web identity":
        monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
        monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(file))
        monkeypatch.setenv("AWS_ENDPOINT_URL_STS", amazon.origin)
    else:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{amazon.origin}/credentials")
        monkeypatch.setenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", str(file))
    return file


def test_a_service_accounts_token_is_traded_for_credentials(amazon: AmazonServer, token: Path) -> None:
    blob = open_blob(amazon)
    assert blob.read(5, 500) == CONTENT[5:500]
    assert set(amazon.traded) == {"first"}
    assert f"X-Amz-Security-Token=session-{amazon.valid}" in amazon.requests[-1].path
    blob.close()


def test_expired_credentials_are_traded_anew_with_the_token_as_it_is_by_then(amazon: AmazonServer, token: Path) -> None:
    blob = open_blob(amazon)
    token.write_text("second")
    amazon.valid = "none"  # as when the session has ended
    assert blob.read(5, 500) == CONTENT[5:500]
    assert (amazon.traded[0], amazon.traded[-1]) == ("first", "second")
    assert f"X-Amz-Security-Token=session-{amazon.valid}" in amazon.requests[-1].path
    blob.close()


def test_a_token_that_sts_does_not_know_is_named(
    amazon: AmazonServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text("stranger")
    monkeypatch.setenv("AWS_ROLE_ARN", ROLE)
    monkeypatch.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(tmp_path / "token"))
    monkeypatch.setenv("AWS_ENDPOINT_URL_STS", amazon.origin)
    with pytest.raises(AccessDeniedError, match=r"STS answered InvalidIdentityToken.*serviceAccountName") as caught:
        open_blob(amazon)
    assert "stranger" not in str(caught.value)


def test_a_profile_wins_over_the_environment(amazon: AmazonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    Path(os.environ["AWS_CONFIG_FILE"]).write_text(
        "[profile models]\naws_access_key_id = MODELS\naws_secret_access_key = secret\n"
    )
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "OTHER")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    amazon.valid = "MODELS"
    open_blob(amazon, profile="models").close()
    with pytest.raises(CheckpointConfigError, match=r"profile \(nobody\) could not be found"):
        open_blob(amazon, profile="nobody")


def test_an_endpoint_is_trusted_by_the_authorities_that_the_source_names(tmp_path: Path, amazon: AmazonServer) -> None:
    certificate = tls.self_signed(tmp_path)
    with tls.serving(certificate, "/b/k", CONTENT) as url:
        endpoint = url.removesuffix("/b/k")
        source = S3Source("b", "k", endpoint=endpoint, addressing="path", anonymous=True)
        with pytest.raises(CheckpointSourceError, match="certificate is not trusted"):
            source.open(Patience(0, 5))
        blob = replace(source, ca_bundle=Path(certificate[0]).read_text()).open(Patience(0, 5))
        assert blob.read(0, 100) == CONTENT[:100]
        blob.close()


def test_who_reads_pays_where_the_bucket_demands_it(amazon: AmazonServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "KEY")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    amazon.valid = "KEY"
    open_blob(amazon, requester_pays=True).close()
    [asked] = amazon.requests
    assert asked.headers["x-amz-request-payer"] == "requester"
    assert "X-Amz-SignedHeaders=host%3Bx-amz-request-payer" in asked.path


@pytest.mark.parametrize(
    "choice",
    [
        {"anonymous": True, "profile": "p"},
        {"anonymous": True, "requester_pays": True},
        {"profile": "p", "secret_ref": "s"},
    ],
    ids=str,
)
def test_two_identities_are_a_mistake(choice: dict[str, Any]) -> None:
    with pytest.raises(CheckpointConfigError, match="credentials"):
        S3Source("b", "k", **choice)
