from __future__ import annotations

import asyncio
import secrets
from base64 import b64decode, b64encode
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import yaml
from certificate_api import WHERE, ApiServer, webhook
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from lightkube import AsyncClient
from lightkube.config.kubeconfig import KubeConfig

from preheat_operator.authority import AUTHORITY_LIFE, CERTIFICATE_LIFE, Identity, renewed
from preheat_operator.certificates import NotPublishedError, ensure
from preheat_operator.trust import trusts

NAMES = ["preheat-webhook.preheat-system.svc", "preheat-webhook.preheat-system.svc.cluster.local"]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
BROKEN_PEM = b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"


def serving(held: Mapping[str, bytes]) -> x509.Certificate:
    return x509.load_pem_x509_certificate(held["tls.crt"])


def test_from_nothing_comes_a_certificate_that_browsers_and_go_would_accept() -> None:
    held = renewed({}, NAMES, NOW)
    authorities = x509.load_pem_x509_certificates(held["ca.crt"])
    verifier = PolicyBuilder().store(Store(authorities)).time(NOW).build_server_verifier(x509.DNSName(NAMES[0]))
    assert verifier.verify(serving(held), []) == [serving(held), authorities[0]]


def test_what_serves_is_kept_as_it_is() -> None:
    held = renewed({}, NAMES, NOW)
    assert renewed(held, NAMES, NOW + CERTIFICATE_LIFE * 0.6) == held


def test_with_a_third_of_its_life_left_the_certificate_is_renewed_under_the_same_authority() -> None:
    held = renewed({}, NAMES, NOW)
    later = renewed(held, NAMES, NOW + CERTIFICATE_LIFE * 0.7)
    assert later["ca.crt"] == held["ca.crt"]
    assert serving(later).not_valid_after_utc == NOW + CERTIFICATE_LIFE * 0.7 + CERTIFICATE_LIFE
    assert trusts(held["ca.crt"], serving(later))


@pytest.mark.parametrize("lost", ["tls.crt", "tls.key", "ca.crt", "ca.key"])
@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"]
)
def test_what_is_lost_or_broken_is_made_anew(lost: str, content: bytes) -> None:
    held = {**renewed({}, NAMES, NOW), lost: content}
    repaired = renewed(held, NAMES, NOW)
    assert trusts(repaired["ca.crt"], serving(repaired))
    assert Identity.load(repaired["tls.crt"], repaired["tls.key"])
    assert renewed(repaired, NAMES, NOW) == repaired


def test_a_key_of_another_certificate_is_noticed() -> None:
    held = {**renewed({}, NAMES, NOW), "tls.key": renewed({}, NAMES, NOW)["tls.key"]}
    assert renewed(held, NAMES, NOW)["tls.crt"] != held["tls.crt"]


def test_a_certificate_for_another_service_is_replaced() -> None:
    held = renewed(renewed({}, ["other.svc"], NOW), NAMES, NOW)
    names = serving(held).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == NAMES


def test_a_new_authority_is_published_beside_the_old_one_until_that_expires() -> None:
    first = renewed({}, NAMES, NOW)
    second = renewed(first, NAMES, NOW + AUTHORITY_LIFE * 0.95)
    assert trusts(second["ca.crt"], serving(first))
    assert trusts(second["ca.crt"], serving(second))
    third = renewed(second, NAMES, NOW + AUTHORITY_LIFE * 1.9)
    assert len(x509.load_pem_x509_certificates(third["ca.crt"])) == 2
    assert not trusts(third["ca.crt"], serving(first))


@pytest.fixture
def api() -> ApiServer:
    return ApiServer()


async def test_the_secret_is_made_and_its_authority_published(api: ApiServer) -> None:
    async with api.client() as client:
        held = await ensure(client, *WHERE, NOW)
    assert api.held() == held
    [(kind, query, sent)] = api.patches
    assert kind == "application/apply-patch+yaml"
    assert query == {"fieldManager": "preheat-certificates", "force": "true"}
    assert sent["webhooks"] == [
        {"name": "pods.preheat.dev", "clientConfig": {"caBundle": b64encode(held["ca.crt"]).decode()}}
    ]


async def test_when_all_is_well_nothing_is_written(api: ApiServer) -> None:
    async with api.client() as client:
        first = await ensure(client, *WHERE, NOW)
        version, api.patches = api.version, []
        assert await ensure(client, *WHERE, NOW) == first
    assert (api.version, api.patches) == (version, [])


async def test_a_bundle_that_was_edited_is_mended(api: ApiServer) -> None:
    async with api.client() as client:
        await ensure(client, *WHERE, NOW)
        api.configuration["webhooks"][0]["clientConfig"]["caBundle"] = "Cg=="
        await ensure(client, *WHERE, NOW)
    assert len(api.patches) == 2


@pytest.mark.parametrize("existing", [None, {}], ids=["absent", "empty"])
async def test_of_two_replicas_that_write_at_once_one_gives_way(api: ApiServer, existing: Any) -> None:
    if existing is not None:
        api.hold(existing)
    api.overtaken_by = renewed({}, NAMES, NOW)
    async with api.client() as client:
        assert await ensure(client, *WHERE, NOW) == api.held()
    assert api.overtaken_by is None


async def test_an_authority_that_was_renewed_while_the_one_before_it_was_published_is_published_too(
    api: ApiServer,
) -> None:
    first = renewed({}, NAMES, NOW)
    api.hold(first)
    api.renewed_meanwhile = renewed({**first, "ca.key": b""}, NAMES, NOW)
    async with api.client() as client:
        held = await ensure(client, *WHERE, NOW)
    assert api.published() == held["ca.crt"] == api.held()["ca.crt"] != first["ca.crt"]


async def test_two_replicas_end_with_one_certificate(api: ApiServer) -> None:
    async with api.client() as client:
        assert (
            len({held["tls.crt"] for held in await asyncio.gather(*(ensure(client, *WHERE, NOW) for _ in "ab"))}) == 1
        )


async def test_what_else_the_secret_holds_is_kept(api: ApiServer) -> None:
    api.hold({"note": b"mine"})
    async with api.client() as client:
        await ensure(client, *WHERE, NOW)
    assert api.held()["note"] == b"mine"


async def test_without_a_configuration_there_is_nothing_to_trust(api: ApiServer) -> None:
    api.configuration = None
    async with api.client() as client:
        with pytest.raises(NotPublishedError, match="no MutatingWebhookConfiguration preheat"):
            await ensure(client, *WHERE, NOW)


@pytest.mark.cluster
async def test_against_the_real_api_server_only_the_bundle_is_ours(cluster: Any, namespace: str) -> None:
    name = f"test-{secrets.token_hex(4)}"
    ours = {
        **webhook("pods.preheat.dev"),
        "clientConfig": {"service": {"name": "preheat-webhook", "namespace": namespace, "path": "/inject"}},
        "objectSelector": {"matchLabels": {"preheat.test/nothing": name}},
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    manifest = {**kind, "metadata": {"name": name}, "webhooks": [ours]}
    cluster.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump(manifest))
    try:
        config = KubeConfig.from_file(cluster.kubeconfig).get()
        async with AsyncClient(config) as client:
            held = await ensure(client, namespace, "certificate", "preheat-webhook", name)
            assert await ensure(client, namespace, "certificate", "preheat-webhook", name) == held
        published = cluster.kubectl("get", kind["kind"], name, "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}")
        assert b64decode(published) == held["ca.crt"]
        assert cluster.kubectl("diff", "--server-side", "-f", "-", input=yaml.safe_dump(manifest)) == ""
    finally:
        cluster.kubectl("delete", kind["kind"], name)
