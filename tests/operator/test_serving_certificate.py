from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import pytest
from certificate_api import NAMESPACE, SECRET, WHERE, ApiServer
from cryptography.hazmat.primitives.asymmetric import rsa
from issuer import Issuer
from lightkube import AsyncClient

from preheat_operator import serving_certificate as subject
from preheat_operator.authority import CERTIFICATE_LIFE, renewed
from preheat_operator.certificates import NotPublishedError, given
from preheat_operator.serving_certificate import ServingCertificate
from preheat_operator.settings import Certificates, Settings

ADDRESS = "preheat-webhook.preheat-system.svc"
NAMES = [ADDRESS, f"{ADDRESS}.cluster.local"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


@asynccontextmanager
async def listening(certificate: ServingCertificate) -> AsyncIterator[int]:
    """The port of a server with this certificate that sends back one line."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readline())
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate.context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def asked(port: int, bundle: bytes) -> bool:
    """Whether a client that trusts the bundle, and looks closely, gets its answer over a new connection."""
    context = ssl.create_default_context(cadata=bundle.decode())
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # as Go: a certificate in the bundle is trusted itself
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=ADDRESS)
    except ssl.SSLError:
        return False
    writer.write(b"a review\n")
    answer = await reader.readline()
    writer.close()
    return answer == b"a review\n"


def test_a_certificate_that_its_authority_did_not_issue_is_not_served() -> None:
    certificate = ServingCertificate(lambda: NOW)
    held = {**renewed({}, NAMES, NOW), "ca.crt": renewed({}, NAMES, NOW)["ca.crt"]}
    with pytest.raises(NotPublishedError, match="not issued by an authority of the published caBundle"):
        certificate.load(held)
    assert certificate.problem == "there is no certificate yet"


def test_an_expired_certificate_is_a_problem() -> None:
    clock = [NOW]
    certificate = ServingCertificate(lambda: clock[0])
    certificate.load(renewed({}, NAMES, NOW))
    assert certificate.problem is None
    clock[0] += CERTIFICATE_LIFE
    assert "has expired" in (certificate.problem or "")


async def test_the_first_certificate_of_a_new_authority_waits_until_api_servers_have_heard_of_it() -> None:
    old, new = Issuer(), Issuer()
    certificate, first = ServingCertificate(), old.issue(ADDRESS)
    certificate.load(first)
    second = {**new.issue(ADDRESS), "ca.crt": new.pem + old.pem}
    async with listening(certificate) as port:
        certificate.load(second)
        assert await asked(port, old.pem)
        certificate.load(second)
        assert await asked(port, new.pem)
        certificate.load({**first, "ca.crt": old.pem})  # that one is no longer trusted: nothing is gained by waiting
        assert await asked(port, old.pem)


def test_a_bad_pair_leaves_the_good_one_in_place() -> None:
    certificate, held = ServingCertificate(lambda: NOW), renewed({}, NAMES, NOW)
    certificate.load(held)
    with pytest.raises(NotPublishedError):
        certificate.load({"tls.crt": b"x", "tls.key": b"y", "ca.crt": held["ca.crt"]})
    assert certificate.problem is None


async def test_a_rotation_is_seen_by_new_connections_and_not_felt_by_old_ones() -> None:
    first, second = renewed({}, NAMES, NOW), renewed({}, NAMES, NOW)
    certificate, release = ServingCertificate(lambda: NOW), asyncio.Event()
    certificate.load(first)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = await reader.readline()
        await release.wait()
        writer.write(line)
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=certificate.context)
    port = server.sockets[0].getsockname()[1]

    async def connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter, bytes]:
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        return reader, writer, ssl.DER_cert_to_PEM_cert(writer.get_extra_info("ssl_object").getpeercert(True)).encode()

    async with server:
        old_reader, old_writer, old = await connected()
        old_writer.write(b"in flight\n")
        certificate.load(second)
        new_reader, new_writer, new = await connected()
        new_writer.write(b"new\n")
        release.set()
        assert (old, new) == (first["tls.crt"], second["tls.crt"])
        assert await old_reader.readline() == b"in flight\n"
        assert await new_reader.readline() == b"new\n"
        for writer in (old_writer, new_writer):
            writer.close()


async def test_a_key_of_another_kind_takes_the_place_of_the_first() -> None:
    """OpenSSL would keep both certificates and go by what the client prefers."""
    issuer, certificate = Issuer(), ServingCertificate()
    certificate.load(issuer.issue(ADDRESS))
    async with listening(certificate) as port:
        assert await asked(port, issuer.pem)
        other = Issuer().issue(ADDRESS, key=rsa.generate_private_key(65537, 2048))
        certificate.load(other)
        assert await asked(port, other["ca.crt"])
        assert not await asked(port, issuer.pem)


@pytest.mark.parametrize("sent", [True, False], ids=["sent along", "left out"])
async def test_a_certificate_of_an_intermediate_authority_needs_that_one_beside_it(sent: bool) -> None:
    root = Issuer()
    top = Issuer(above=root)
    between = Issuer(above=top)
    held, certificate = between.issue(ADDRESS), ServingCertificate()
    held["tls.crt"] += (between.pem + top.pem) if sent else b""
    if not sent:
        with pytest.raises(NotPublishedError, match="not issued by an authority of the published caBundle"):
            certificate.load({**held, "ca.crt": root.pem})
        return
    certificate.load({**held, "ca.crt": root.pem})
    async with listening(certificate) as port:
        assert await asked(port, root.pem)


def test_a_key_under_a_password_is_refused_and_nobody_is_asked_for_it() -> None:
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nMIIB\n-----END ENCRYPTED PRIVATE KEY-----\n"
    with pytest.raises(NotPublishedError, match="key does not belong to the certificate, or cannot be read"):
        ServingCertificate().load({**Issuer().issue(ADDRESS), "tls.key": encrypted})


async def test_a_given_certificate_is_held_against_what_is_published(api: ApiServer) -> None:
    issuer, certificate = Issuer(), ServingCertificate()
    async with api.client() as client:
        with pytest.raises(NotPublishedError, match=f"Secret {NAMESPACE}/{SECRET} is not there yet"):
            await given(client, *WHERE)
        api.hold({**issuer.issue(ADDRESS), "ca.crt": Issuer().pem})  # who publishes may know better than the Secret
        with pytest.raises(NotPublishedError, match="no caBundle is published yet"):
            certificate.load(await given(client, *WHERE))
        api.publish(issuer.pem)
        certificate.load(await given(client, *WHERE))
        assert certificate.problem is None
        api.publish(Issuer().pem)
        with pytest.raises(NotPublishedError):
            certificate.load(await given(client, *WHERE))
        assert certificate.problem is not None
        api.publish(None)
        with pytest.raises(NotPublishedError):
            certificate.load(await given(client, *WHERE))
        assert certificate.problem is not None
    assert api.patches == []
    assert api.version == 1


@pytest.mark.parametrize(
    ("names", "fits"),
    [
        ([ADDRESS], True),
        (["*.preheat-system.svc"], True),
        (["elsewhere", ADDRESS.upper()], True),
        (["preheat-webhook"], False),
        (["*.svc"], False),
        (["preheat-webhook.other.svc"], False),
        ([], False),
    ],
)
async def test_a_given_certificate_is_for_the_service(api: ApiServer, names: list[str], fits: bool) -> None:
    issuer = Issuer()
    api.hold(issuer.issue(*names))
    api.publish(issuer.pem)
    async with api.client() as client:
        if fits:
            await given(client, *WHERE)
            return
        text = f"is for {', '.join(names) or 'no name'}, and not for {ADDRESS}"
        with pytest.raises(NotPublishedError, match=re.escape(text)):
            await given(client, *WHERE)


async def test_a_secret_without_certificate_is_named(api: ApiServer) -> None:
    api.hold({"password": b"x"})
    async with api.client() as client:
        with pytest.raises(NotPublishedError, match=f"Secret {NAMESPACE}/{SECRET} holds no certificate in tls.crt"):
            await given(client, *WHERE)


class Load:
    """A client that asks without pause, over new connections, trusting what is published at that moment."""

    def __init__(self, api: ApiServer, *ports: int) -> None:
        self.answered: list[bool] = []
        self._api, self._ports = api, ports

    async def keep_on(self) -> None:
        while True:
            for port in self._ports:
                self.answered.append(await asked(port, self._api.published()))

    async def until_served(self, bundle: bytes) -> None:
        """Wait until all replicas serve what this bundle alone trusts, and for a few answers more."""
        async with asyncio.timeout(20):
            while not all([await asked(port, bundle) for port in self._ports]):
                await asyncio.sleep(0.005)
            enough = len(self.answered) + 10
            while len(self.answered) < enough:
                await asyncio.sleep(0.005)


@asynccontextmanager
async def two_replicas(
    client: AsyncClient, api: ApiServer, kind: Certificates, clock: Callable[[], datetime]
) -> AsyncIterator[Load]:
    settings = Settings(NAMESPACE, "l", certificates=kind)
    replicas = [ServingCertificate(clock) for _ in "ab"]
    async with (
        listening(replicas[0]) as first,
        listening(replicas[1]) as second,
        asyncio.timeout(20),
        asyncio.TaskGroup() as tasks,
    ):
        load, running = Load(api, first, second), [tasks.create_task(each.keep(client, settings)) for each in replicas]
        try:
            while any(replica.problem for replica in replicas):
                await asyncio.sleep(0.005)
            running.append(tasks.create_task(load.keep_on()))
            yield load
        finally:
            for task in running:
                task.cancel()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CHECK_SECONDS", "RETRY_SECONDS"):
        monkeypatch.setattr(subject, name, 0.02)


@pytest.mark.usefixtures("quick")
async def test_our_own_certificate_and_authority_are_renewed_under_load_without_one_failure(api: ApiServer) -> None:
    clock = [datetime.now(UTC) - CERTIFICATE_LIFE * 0.7]  # ends at the present, the only time that OpenSSL knows
    async with api.client() as client, two_replicas(client, api, "own", lambda: clock[0]) as load:
        first = api.held()
        clock[0] = datetime.now(UTC)
        async with asyncio.timeout(10):
            while api.held()["tls.crt"] == first["tls.crt"]:
                await asyncio.sleep(0.005)
        second = api.held()
        assert second["ca.crt"] == first["ca.crt"]
        await load.until_served(second["tls.crt"])
        api.hold({**second, "ca.key": b""})  # as good as an authority near its end
        async with asyncio.timeout(10):
            while api.held()["ca.crt"] == first["ca.crt"]:
                await asyncio.sleep(0.005)
        await load.until_served(api.held()["tls.crt"])
    assert len(load.answered) >= 20
    assert all(load.answered)


@pytest.mark.usefixtures("quick")
async def test_a_given_certificate_is_renewed_under_load_without_one_failure(api: ApiServer) -> None:
    issuer, new = Issuer(), Issuer()
    api.hold(issuer.issue(ADDRESS))
    api.publish(issuer.pem)
    async with api.client() as client, two_replicas(client, api, "given", lambda: datetime.now(UTC)) as load:
        api.hold(renewal := issuer.issue(ADDRESS))
        await load.until_served(renewal["tls.crt"])
        api.publish(issuer.pem + new.pem)  # an authority goes as it should: trusted before it issues
        api.hold(new.issue(ADDRESS))
        await load.until_served(new.pem)
        api.publish(new.pem)
        await load.until_served(new.pem)
    assert len(load.answered) >= 30
    assert all(load.answered)
