"""No labelled pod ever runs without its loader and no other pod ever waits, whatever happens to the webhook."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import ssl
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from faults.fault_proxy import CUT_BEFORE, HANG, Answer, FaultProxy, Redirect, Request
from faults.installation import NAME, Installation, Tenant, has_loader, pipeline, pod, serving
from faults.load import load
from faults.operator_processes import Haste, Operator, eventually, running
from preheat_operator.authority import CERTIFICATE_LIFE, renewed

pytestmark = pytest.mark.cluster
HASTE = Haste(silence=3, certificate=0.3)
TIMEOUT = 2  # seconds that the API server waits here
SECRET = f"/api/v1/namespaces/{{}}/secrets/{NAME}-webhook-certificate"
CONFIGURATION = f"/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/{NAME}"


@pytest.fixture(scope="module")
def patient(installation) -> None:
    installation.set_timeout(TIMEOUT)


@pytest.fixture(scope="module")
def webhook(installation, patient, tmp_path_factory) -> Iterator[tuple[FaultProxy, Operator]]:
    """One replica that serves, and the proxy between it and the API server."""
    log = tmp_path_factory.mktemp("webhook") / "log"
    with (
        installation.proxied("webhook") as (proxy, kubeconfig),
        running("webhook", kubeconfig, log, HASTE, **installation.settings) as process,
    ):
        yield proxy, process


@pytest.fixture
def front(installation, webhook) -> Iterator[FaultProxy]:
    """Between the API server and the webhook, with the webhook's own certificate."""
    certificate = held(installation)
    trusted = ssl.create_default_context(cadata=certificate["ca.crt"].decode())
    trusted.check_hostname = False
    own = serving(certificate)
    with FaultProxy("127.0.0.1", webhook[1].port, own_tls=own, upstream_tls=trusted) as proxy:
        installation.endpoints(proxy.port)
        yield proxy


@pytest.fixture
def served(front, tenant) -> Tenant:
    """A tenant with a pipeline whose pods are injected."""
    tenant.pipeline()
    eventually(lambda: ask(tenant).code == 201)
    return tenant


class Asked:
    """What the API server said to a pod that carries the label."""

    def __init__(self, tenant: Tenant, name: str = "a", label: str = "finetune", **query: str) -> None:
        began = time.monotonic()
        answer = tenant.api.http.post(tenant.pods, json=pod(name, label), params=query)
        self.seconds = time.monotonic() - began
        self.code, self.text = answer.status_code, answer.text
        assert self.code != 201 or has_loader(answer.json())


def ask(tenant: Tenant, label: str = "finetune") -> Asked:
    return Asked(tenant, label=label, dryRun="All")


def held(installation: Installation) -> dict[str, bytes]:
    """What the Secret of the certificate holds."""
    return {
        key: b64decode(value)
        for key, value in installation.api.get(SECRET.format(installation.namespace))["data"].items()
    }


def reviewed(**response: Any) -> Answer:
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}
    return Answer(200, json.dumps(review).encode(), (("Content-Type", "application/json"),))


def allowed_without_a_patch(request: Any) -> Answer:
    return reviewed(uid=json.loads(request.body)["request"]["uid"], allowed=True)


FAULTS: dict[str, Callable[[FaultProxy], None]] = {
    "nobody listens": FaultProxy.refuse,
    "everything is swallowed": FaultProxy.hole,
    "connections went silent": FaultProxy.freeze,
    "it never answers": lambda proxy: setattr(proxy, "rule", lambda _: HANG),
    "it cuts": lambda proxy: setattr(proxy, "rule", lambda _: CUT_BEFORE),
    "it answers in part": lambda proxy: setattr(proxy, "rule", lambda _: Answer(200, b'{"kind": "Admi')),
    "it is another program": lambda proxy: setattr(proxy, "rule", lambda _: Answer(200, b"<html>")),
    "it is broken": lambda proxy: setattr(proxy, "rule", lambda _: Answer(500, b"no")),
    "it answers another question": lambda proxy: setattr(proxy, "rule", lambda _: reviewed(uid="x", allowed=True)),
    "it lets everything pass": lambda proxy: setattr(proxy, "rule", allowed_without_a_patch),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())
def test_a_labelled_pod_is_refused_in_time_and_no_other_waits(front, served, fault) -> None:
    fault(front)
    with load(served, labelled=0, plain=1) as others:
        asked = ask(served)
        others.goes_on()
    assert asked.code >= 400, asked.text
    assert asked.seconds < TIMEOUT + 2
    assert others.unharmed
    assert others.slowest_plain() < TIMEOUT
    assert all(b"preheat.dev/pipeline" in each.body for each in front.requests)
    front.rule = lambda _: None
    front.open()
    eventually(lambda: ask(served).code == 201)


async def test_a_pod_created_in_one_breath_with_its_pipeline_is_injected_and_later_no_ghost(served) -> None:
    """Injected or refused, never plain; and a pipeline that is gone serves no pod."""
    names = [f"p{number}" for number in range(10)]
    async with served.api.several() as http:

        async def pair(name: str) -> int:
            document = pipeline(name)
            _, answer = await asyncio.gather(
                http.post(served.pipelines, json=document), http.post(served.pods, json=pod(name, name))
            )
            assert answer.status_code != 201 or has_loader(answer.json())
            return answer.status_code

        codes = [await pair(name) for name in names]
        assert codes.count(201) > 0
        await http.delete(served.pipelines)
    eventually(lambda: "has no CheckpointPipeline" in ask(served, "p0").text)
    assert all(ask(served, name).code == 403 for name in names[:3])


def test_an_api_server_that_is_away_takes_nothing_from_known_pipelines(webhook, served) -> None:
    """The webhook cannot reach it; it answers of what it knows, and learns the rest when it can."""
    proxy, process = webhook
    for fault in (proxy.refuse, proxy.hole):
        fault()
        assert ask(served).code == 201
        served.pipeline(fault.__name__)
        assert "has no CheckpointPipeline" in ask(served, fault.__name__).text
        proxy.open()
        eventually(lambda: ask(served, fault.__name__).code == 201, 15)  # noqa: B023
    assert process.ready()


def test_a_watch_that_went_silent_is_given_up(webhook, served) -> None:
    """Old connections carry nothing; new ones are as good as ever. (By default after 55 s.)"""
    proxy, _ = webhook
    proxy.freeze()
    began = time.monotonic()
    served.pipeline("missed")
    eventually(lambda: ask(served, "missed").code == 201)
    assert time.monotonic() - began < 3 * HASTE.silence


def test_a_pipeline_deleted_while_the_watch_was_lost_for_good_leaves_no_ghost(webhook, served) -> None:
    """The API server itself says 410: the watch is taken up at a version that it has long forgotten."""
    proxy, _ = webhook
    served.pipeline("ghost")
    eventually(lambda: ask(served, "ghost").code == 201)

    def of_long_ago(request: Request) -> Any:
        return (
            Redirect(re.sub(r"resourceVersion=\d+", "resourceVersion=1", request.target)) if request.watches else None
        )

    proxy.refuse()
    served.delete("ghost")
    proxy.rule = of_long_ago
    proxy.open()
    eventually(lambda: "has no CheckpointPipeline" in ask(served, "ghost").text)
    proxy.rule = lambda _: None


def test_one_that_starts_into_a_hole_refuses_nothing_for_good(installation, patient, tenant, tmp_path) -> None:
    with installation.proxied("webhook") as (proxy, kubeconfig):
        proxy.hole()
        process = Operator("webhook", kubeconfig, tmp_path / "log", HASTE, **installation.settings)
        try:
            eventually(lambda: "not been listed" in process.get("/readyz"))
            tenant.pipeline()
            proxy.open()
            eventually(process.ready)
        finally:
            process.end()


Held = dict[str, bytes]
ROTATIONS: dict[str, Callable[[Held, list[str]], Held]] = {
    "the certificate is old": lambda held, names: issued(held, names, CERTIFICATE_LIFE * 0.8),
    "the certificate has expired": lambda held, names: issued(held, names, CERTIFICATE_LIFE * 1.1),
    "the key is another's": lambda held, names: {**held, "tls.key": renewed({}, names, datetime.now(UTC))["tls.key"]},
    "the authority has to be made anew": lambda held, names: {**held, "ca.key": b""},
}


def issued(held: Held, names: list[str], ago: timedelta) -> Held:
    """The same with a certificate that was issued some time ago."""
    authority = {key: held[key] for key in ("ca.crt", "ca.key")}
    return {**held, **{k: v for k, v in renewed(authority, names, datetime.now(UTC) - ago).items() if k[:3] == "tls"}}


def test_no_pod_notices_that_certificate_or_authority_change(installation, webhook, served, tmp_path) -> None:
    with (
        installation.proxied("webhook") as (_, kubeconfig),
        running("webhook", kubeconfig, tmp_path / "log", HASTE, **installation.settings) as second,
    ):
        processes = (webhook[1], second)
        installation.endpoints(*(each.port for each in processes))
        with load(served) as pods:
            for change in ROTATIONS.values():
                _rotate(installation, processes, change)
                assert all(trusted(installation, each) for each in processes)
                pods.goes_on()
        assert not pods.refused, pods.refused[0]
        assert pods.unharmed


def _rotate(
    installation: Installation, processes: Iterable[Operator], change: Callable[[Held, list[str]], Held]
) -> None:
    """Have the Secret hold something else, until every process has made and taken what follows from it."""
    service = f"{NAME}-webhook.{installation.namespace}.svc"
    before = held(installation)
    wanted = change(before, [service, f"{service}.cluster.local"])
    data = {key: b64encode(value).decode() for key, value in wanted.items()}
    installation.api.patch(SECRET.format(installation.namespace), {"data": data})
    eventually(lambda: held(installation)["tls.crt"] not in (before["tls.crt"], wanted["tls.crt"]))
    made = held(installation)["tls.crt"]
    eventually(lambda: all(served_by(each) == made for each in processes))


def served_by(process: Operator) -> bytes:
    return ssl.get_server_certificate(("127.0.0.1", process.port)).encode()


def trusted(installation: Installation, process: Operator) -> bool:
    """Whether a new connection of the API server would be made."""
    [webhook] = installation.api.get(CONFIGURATION)["webhooks"]
    context = ssl.create_default_context(cadata=b64decode(webhook["clientConfig"]["caBundle"]).decode())
    name = f"{NAME}-webhook.{installation.namespace}.svc"
    with (
        socket.create_connection(("127.0.0.1", process.port)) as plain,
        context.wrap_socket(plain, server_hostname=name) as encrypted,
    ):
        return encrypted.version() is not None


def test_replicas_come_and_go_unnoticed_and_one_that_is_killed_costs_refusals_alone(
    installation, webhook, served, tmp_path
) -> None:
    first = webhook[1]
    with (
        installation.proxied("webhook") as (_, kubeconfig),
        running("webhook", kubeconfig, tmp_path / "2", HASTE, **installation.settings) as second,
        running("webhook", kubeconfig, tmp_path / "3", HASTE, **installation.settings) as third,
    ):
        installation.endpoints(first.port, second.port)
        with load(served) as pods:
            pods.goes_on()
            installation.endpoints(first.port, third.port)
            pods.goes_on(60)  # as long as a stopping pod waits before it stops
            assert second.end(signal.SIGTERM) == 0
            pods.goes_on()
            assert not pods.refused, pods.refused[0]
            third.end(signal.SIGKILL)
            installation.endpoints(first.port)
            pods.goes_on(60)
            healed = time.monotonic()
            pods.goes_on(60)
        assert not [each for each in pods.refused if each.began > healed]
        assert pods.unharmed
        assert pods.slowest_plain() < TIMEOUT
