from __future__ import annotations

import asyncio
import gc
import io
import json
import os
import secrets
import signal
import socket
import ssl
import sys
import time
from asyncio.sslproto import SSLProtocol
from base64 import b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import httpx2
import jsonpatch
import pytest
import yaml
from aiohttp import ClientSession, TCPConnector
from aiohttp.test_utils import TestClient, TestServer

from preheat_operator import metrics
from preheat_operator import webhook as subject
from preheat_operator.admission import Entry
from preheat_operator.authority import renewed
from preheat_operator.cache import PipelineCache
from preheat_operator.injection import inject
from preheat_operator.serving_certificate import ServingCertificate
from preheat_operator.settings import Settings
from preheat_operator.webhook import PATH, Webhook

SETTINGS = Settings(namespace="preheat-system", loader_image="registry.example.org/preheat-loader:1")
NAMES = ["preheat-webhook.preheat-system.svc"]


class KnownPipelines(PipelineCache):
    """A cache that is told what it knows, instead of asking an API server."""

    def __init__(self) -> None:
        super().__init__(httpx2.AsyncClient())
        self._wake()

    def tell(self, name: str, namespace: str = "team-a", **spec: Any) -> Entry:
        stages = [{"s3": {"bucket": "b", "key": "k"}}, {"weightsOnly": {}}]
        metadata = {"name": name, "namespace": namespace, "uid": "u", "generation": 1, "resourceVersion": "1"}
        self._apply({"type": "ADDED", "object": {"metadata": metadata, "spec": {"stages": stages, **spec}}})
        found = self.get(namespace, name)
        assert found is not None
        return found

    def lose(self, name: str, namespace: str) -> None:
        metadata = {"name": name, "namespace": namespace, "resourceVersion": "2"}
        self._apply({"type": "DELETED", "object": {"metadata": metadata}})

    def forget_everything(self) -> None:
        self._heard = None


def pod(pipeline: str | None = "finetune", **spec: Any) -> dict[str, Any]:
    labels = {"app": "trainer"} if pipeline is None else {"preheat.dev/pipeline": pipeline}
    containers = [{"name": "train", "image": "trainer:1", "resources": {"limits": {"nvidia.com/gpu": 1}}}]
    return {"metadata": {"generateName": "trainer-", "labels": labels}, "spec": {"containers": containers, **spec}}


def review(pod: Any, **request: Any) -> dict[str, Any]:
    about = {"uid": "review-1", "kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE"}
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {**about, "namespace": "team-a", "object": pod, "oldObject": None, "dryRun": False, **request},
    }


@pytest.fixture
def cache() -> KnownPipelines:
    return KnownPipelines()


@pytest.fixture
def webhook(cache: KnownPipelines) -> Webhook:
    return Webhook(cache, SETTINGS, patience=0.05)


@pytest.fixture
async def client(webhook: Webhook) -> AsyncIterator[TestClient[Any, Any]]:
    async with TestClient(TestServer(webhook.application())) as client:
        yield client


Ask = Callable[[Any], Awaitable[dict[str, Any]]]


@pytest.fixture
def ask(client: TestClient[Any, Any]) -> Ask:
    async def ask(document: Any) -> dict[str, Any]:
        async with client.post(PATH, json=document) as answer:
            assert answer.status == 200
            response: dict[str, Any] = (await answer.json())["response"]
        assert response["uid"] == "review-1"
        return response

    return ask


def patched(before: Any, response: dict[str, Any]) -> Any:
    assert response["patchType"] == "JSONPatch"
    return jsonpatch.apply_patch(before, json.loads(b64decode(response["patch"])))


async def test_a_labelled_pod_is_injected(ask: Ask, cache: KnownPipelines) -> None:
    pipeline = cache.tell("finetune").pipeline
    response = await ask(review(pod()))
    assert response["allowed"] is True
    assert patched(pod(), response) == inject(pod(), pipeline, SETTINGS)


async def test_a_second_pass_is_allowed_without_a_patch(ask: Ask, cache: KnownPipelines) -> None:
    injected = inject(pod(), cache.tell("finetune").pipeline, SETTINGS)
    assert await ask(review(injected)) == {"uid": "review-1", "allowed": True}


async def test_a_dry_run_is_answered_alike(ask: Ask, cache: KnownPipelines) -> None:
    cache.tell("finetune")
    assert await ask(review(pod(), dryRun=True)) == await ask(review(pod()))


async def test_a_pod_without_the_label_is_none_of_our_business(ask: Ask) -> None:
    assert await ask(review(pod(None))) == {"uid": "review-1", "allowed": True}


async def test_an_unknown_pipeline_is_refused_and_the_known_ones_are_listed(ask: Ask, cache: KnownPipelines) -> None:
    for name in ("finetune", "pretrain"):
        cache.tell(name)
    cache.tell("secret-project", namespace="team-b")
    response = await ask(review(pod("finetun")))
    assert response["allowed"] is False
    assert response["status"] == {
        "code": 403,
        "message": "label preheat.dev/pipeline: namespace team-a has no CheckpointPipeline 'finetun'. "
        "There are: finetune, pretrain",
    }


async def test_a_namespace_without_pipelines_says_what_to_do(ask: Ask) -> None:
    assert (await ask(review(pod())))["status"]["message"].endswith("There is none: create it first")


async def test_an_empty_label_is_refused(ask: Ask, cache: KnownPipelines) -> None:
    cache.tell("finetune")
    assert (await ask(review(pod(""))))["allowed"] is False


async def test_a_pipeline_created_in_the_same_breath_is_waited_for(cache: KnownPipelines) -> None:
    answering = asyncio.create_task(Webhook(cache, SETTINGS).decide(review(pod())["request"], patience=5))
    await asyncio.sleep(0)
    cache.tell("finetune")
    assert (await answering).result == "injected"


@pytest.mark.parametrize(("query", "waits"), [("?timeout=1s", True), ("?timeout=x", False), ("", False)])
async def test_an_api_server_that_waits_for_less_still_hears_the_reason(
    cache: KnownPipelines, query: str, waits: bool
) -> None:
    async with TestClient(TestServer(Webhook(cache, SETTINGS, patience=5 if waits else 0).application())) as client:
        began = time.monotonic()
        async with client.post(PATH + query, json=review(pod())) as answer:
            assert "has no CheckpointPipeline" in (await answer.json())["response"]["status"]["message"]
        assert time.monotonic() - began < 0.9


async def test_a_pipeline_that_cannot_be_used_is_refused_with_the_reason(ask: Ask, cache: KnownPipelines) -> None:
    cache.tell("finetune", stages=[{"weightsOnly": {}}])
    message = (await ask(review(pod())))["status"]["message"]
    assert message.startswith("CheckpointPipeline team-a/finetune cannot be used: stages: the first stage says where")


async def test_a_pod_that_cannot_be_injected_is_refused_with_the_reason(ask: Ask, cache: KnownPipelines) -> None:
    cache.tell("finetune")
    message = (await ask(review(pod(os={"name": "windows"}))))["status"]["message"]
    assert (
        message == "CheckpointPipeline team-a/finetune: the pod is for Windows, the loader for Linux. Remove its label"
    )


async def test_before_the_pipelines_are_known_nothing_is_refused_for_good(ask: Ask, cache: KnownPipelines) -> None:
    cache.forget_everything()
    response = await ask(review(pod()))
    assert (response["allowed"], response["status"]["code"]) == (False, 503)


async def test_warnings_reach_the_author(ask: Ask, cache: KnownPipelines) -> None:
    cache.tell("finetune")
    container = {"name": "train", "image": "t", "envFrom": [{"configMapRef": {"name": "settings"}}]}
    assert "envFrom" in (await ask(review(pod(containers=[container]))))["warnings"][0]


async def test_a_bug_refuses_the_pod_and_shows_nothing_of_itself(
    ask: Ask, cache: KnownPipelines, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("token-123")

    cache.tell("finetune")
    monkeypatch.setattr(subject, "admit", broken)
    response = await ask(review(pod()))
    assert response["allowed"] is False
    assert response["status"]["code"] == 500
    message = response["status"]["message"]
    assert "token-123" not in message
    assert message.rpartition(" ")[2] in capsys.readouterr().out  # the incident's number is in the log


async def test_reviews_are_counted_by_pipeline_and_by_the_rule_that_explain_names(
    ask: Ask, cache: KnownPipelines
) -> None:
    def counted(name: str, reason: str, namespace: str = "counted") -> float | None:
        labels = {"pipeline_namespace": namespace, "pipeline": name, "reason": reason}
        return metrics.WEBHOOK.get_sample_value("preheat_pipeline_reviews_total", labels)

    good = cache.tell("finetune", namespace="counted")
    cache.tell("broken", namespace="counted", stages=[{"weightsOnly": {}}])
    injected = inject(pod(), good.pipeline, SETTINGS)
    for each in (pod(), pod(), injected, pod(None), pod(os={"name": "windows"}), pod("broken"), pod("a"), pod("b")):
        await ask(review(each, namespace="counted"))
    assert counted("finetune", "Labelled") == 2
    assert counted("finetune", "PodRefused") == 1
    assert counted("broken", "PipelineInvalid") == 1
    assert counted("", "PipelineMissing") == 2
    cache.lose("finetune", namespace="counted")
    assert counted("finetune", "Labelled") is None
    assert counted("broken", "PipelineInvalid") == 1


async def test_the_time_of_an_answer_is_counted_by_its_result(ask: Ask, cache: KnownPipelines) -> None:
    def counted(result: str) -> float:
        return metrics.WEBHOOK.get_sample_value("preheat_admission_seconds_count", {"result": result}) or 0

    before = counted("injected"), counted("refused")
    cache.tell("finetune")
    await ask(review(pod()))
    await ask(review(pod("other")))
    assert (counted("injected"), counted("refused")) == (before[0] + 1, before[1] + 1)


NOT_A_REVIEW: dict[str, Any] = {
    "nothing": b"",
    "not JSON": b"{",
    "bad UTF-8": b'{"kind": "\xff"}',
    "a list": b"[]",
    "null": b"null",
    "deep": b"[" * 200_000,
    "another kind": {"kind": "Pod"},
    "an older version": {**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"},
    "no request": {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"},
    "no uid": review(pod(), uid=""),
    "a uid that is no text": review(pod(), uid=5),
    "no pod": review(None),
    "a pod that is none": review([]),
    "another resource": review(pod(), kind={"group": "apps", "version": "v1", "kind": "Deployment"}),
    "another operation": review(pod(), operation="UPDATE"),
    "a subresource": review(pod(), subResource="ephemeralcontainers"),
}


@pytest.mark.parametrize("body", NOT_A_REVIEW.values(), ids=NOT_A_REVIEW.keys())
async def test_what_is_no_review_of_a_new_pod_is_a_bad_request(client: TestClient[Any, Any], body: Any) -> None:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    async with client.post(PATH, data=data, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == 400
        assert "allowed" not in await answer.text()


@pytest.mark.parametrize(
    ("method", "path", "kind", "status"),
    [
        ("POST", "/injct", "application/json", 404),
        ("POST", "/", "application/json", 404),
        ("POST", "/inject/", "application/json", 404),
        ("GET", "/inject", "application/json", 405),
        ("PUT", "/inject", "application/json", 405),
        ("POST", "/inject", "text/plain", 415),
        ("POST", "/inject", "application/yaml", 415),
    ],
)
async def test_wrong_path_method_and_content_type_are_told_apart(
    client: TestClient[Any, Any], cache: KnownPipelines, method: str, path: str, kind: str, status: int
) -> None:
    cache.tell("finetune")
    data = json.dumps(review(pod()))
    async with client.request(method, path, data=data, headers={"Content-Type": kind}) as answer:
        assert answer.status == status
        assert "allowed" not in await answer.text()


@pytest.mark.parametrize("odd", [{"metadata": None}, {"spec": None}, {"metadata": {"labels": []}}, {"spec": []}, {}])
async def test_an_odd_pod_never_ends_the_process_nor_passes_with_the_label(
    ask: Ask, cache: KnownPipelines, odd: dict[str, Any]
) -> None:
    cache.tell("finetune")
    labelled = {**pod(), **odd}
    response = await ask(review(labelled))
    if "preheat.dev/pipeline" in ((labelled["metadata"] or {}).get("labels") or {}):
        assert response["allowed"] is False or "patch" in response
    assert (await ask(review(pod())))["allowed"] is True


@pytest.mark.parametrize(("mebibytes", "status"), [(2, 200), (9, 413)])
async def test_a_body_may_be_larger_than_any_pod_but_not_by_much(
    client: TestClient[Any, Any], cache: KnownPipelines, mebibytes: int, status: int
) -> None:
    cache.tell("finetune")
    big = pod()
    big["metadata"]["annotations"] = {"note": "x" * (mebibytes << 20)}
    body = io.BytesIO(json.dumps(review(big)).encode())
    async with client.post(PATH, data=body, headers={"Content-Type": "application/json"}) as answer:
        assert answer.status == status


async def test_a_body_that_breaks_off_harms_nobody(
    ask: Ask, client: TestClient[Any, Any], cache: KnownPipelines
) -> None:
    cache.tell("finetune")
    _, writer = await asyncio.open_connection(client.host, client.port)
    head = b"POST /inject HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 5000\r\n\r\n{"
    writer.write(head)
    await writer.drain()
    writer.close()
    assert (await ask(review(pod())))["allowed"] is True


async def test_a_stopping_webhook_lets_its_clients_go(
    webhook: Webhook, client: TestClient[Any, Any], cache: KnownPipelines
) -> None:
    cache.tell("finetune")
    webhook.draining = True
    async with client.post(PATH, json=review(pod())) as answer:
        assert answer.headers["Connection"] == "close"


async def test_a_burst_is_answered_in_full(
    client: TestClient[Any, Any], cache: KnownPipelines, capsys: pytest.CaptureFixture[str]
) -> None:
    for i in range(1000):
        cache.tell(f"p{i}")
    seconds: list[float] = []

    async def one(i: int) -> bool:
        started = time.perf_counter()
        async with client.post(PATH, json=review(pod(f"p{i}"))) as answer:
            allowed = "patch" in (await answer.json())["response"]
        seconds.append(time.perf_counter() - started)
        return allowed

    assert all(await asyncio.gather(*(one(i) for i in range(500))))
    burst = max(seconds)
    seconds.clear()
    for i in range(200):
        await one(i)
    seconds.sort()
    figures = (
        f"500 at once: {burst:.2f} s; one by one: p50 {seconds[100] * 1e3:.1f} ms, p99 {seconds[198] * 1e3:.1f} ms"
    )
    with capsys.disabled():
        print(f"\n  {figures}")


async def test_a_connection_takes_little_memory(webhook: Webhook) -> None:
    certificate, identity = ServingCertificate(), renewed({}, NAMES, datetime.now(UTC))
    certificate.load(identity)
    port = free_port()
    listening = asyncio.create_task(subject._listen(webhook, certificate, port, asyncio.Event()))
    trust = ssl.create_default_context(cadata=identity["ca.crt"].decode())
    async with asyncio.timeout(5):
        while True:
            with suppress(ConnectionRefusedError):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust, server_hostname=NAMES[0])
                break
            await asyncio.sleep(0.01)
    buffers = [len(each._ssl_buffer) for each in gc.get_objects() if type(each) is SSLProtocol]
    writer.close()
    listening.cancel()
    await asyncio.wait([listening])
    assert buffers
    assert max(buffers) <= 32 * 1024


async def test_a_new_certificate_is_served_while_reviews_are_in_flight(cache: KnownPipelines) -> None:
    now = datetime.now(UTC)
    first, second = renewed({}, NAMES, now), renewed({}, NAMES, now)
    certificate, webhook = ServingCertificate(), Webhook(cache, SETTINGS, patience=5)
    certificate.load(first)
    server = TestServer(webhook.application(), scheme="https")
    await server.start_server(ssl=certificate.context)

    async def ask_over_tls(authority: bytes) -> bool:
        context = ssl.create_default_context(cadata=authority.decode())
        async with (
            ClientSession(connector=TCPConnector(ssl=context)) as session,
            session.post(server.make_url(PATH), json=review(pod()), server_hostname=NAMES[0]) as answer,
        ):
            return bool((await answer.json())["response"]["allowed"])

    try:
        in_flight = [asyncio.create_task(ask_over_tls(first["ca.crt"])) for _ in range(20)]
        while len(server.runner.server.connections) < 20:  # type: ignore[union-attr]
            await asyncio.sleep(0.005)
        certificate.load(second)
        afterwards = asyncio.create_task(ask_over_tls(second["ca.crt"]))
        cache.tell("finetune")
        assert all(await asyncio.gather(*in_flight, afterwards))
        with pytest.raises(OSError, match="certificate verify failed"):
            await ask_over_tls(first["ca.crt"])
    finally:
        await server.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.cluster
async def test_the_process_serves_against_a_real_api_server_and_stops_in_time(
    installed_crd: Any, namespace: str
) -> None:
    cluster = installed_crd
    name, port, health = f"test-{secrets.token_hex(4)}", free_port(), free_port()
    webhook = {
        "name": "pods.preheat.dev",
        "admissionReviewVersions": ["v1"],
        "sideEffects": "None",
        "clientConfig": {"service": {"name": name, "namespace": namespace, "path": PATH}},
        "objectSelector": {"matchLabels": {"preheat.test/nothing": name}},
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "MutatingWebhookConfiguration"}
    pipeline = {
        "apiVersion": "preheat.dev/v1alpha1",
        "kind": "CheckpointPipeline",
        "metadata": {"name": "finetune", "namespace": namespace},
        "spec": {"stages": [{"s3": {"bucket": "b", "key": "k"}}]},
    }
    cluster.kubectl(
        "apply", "-f", "-", input=yaml.safe_dump({**kind, "metadata": {"name": name}, "webhooks": [webhook]})
    )
    variables = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "PREHEAT_NAMESPACE": namespace,
        "PREHEAT_LOADER_IMAGE": "loader:1",
        "PREHEAT_SERVICE_NAME": name,
        "PREHEAT_WEBHOOK_CONFIGURATION_NAME": name,
        "PREHEAT_PORT": str(port),
        "PREHEAT_HEALTH_PORT": str(health),
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "preheat_operator", "webhook"), env={**os.environ, **variables}
    )
    try:
        async with ClientSession() as session:
            await ready(session, f"http://127.0.0.1:{health}/readyz")
            path = ("get", kind["kind"], name, "-o", "jsonpath={.webhooks[0].clientConfig.caBundle}")
            authority = b64decode(cluster.kubectl(*path)).decode()
            context = ssl.create_default_context(cadata=authority)
            cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump(pipeline))
            document = review(pod(), namespace=namespace)
            host = f"{name}.{namespace}.svc"
            url = f"https://127.0.0.1:{port}{PATH}"
            async with session.post(url, json=document, ssl=context, server_hostname=host) as answer:
                assert "patch" in (await answer.json())["response"]
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 60) == 0
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        cluster.kubectl("delete", kind["kind"], name)


async def ready(session: ClientSession, url: str) -> None:
    deadline, last = time.monotonic() + 30, ""
    while time.monotonic() < deadline:
        try:
            async with session.get(url) as answer:
                last = await answer.text()
                if answer.status == 200:
                    return
        except OSError as error:
            last = str(error)
        await asyncio.sleep(0.1)
    pytest.fail(f"not ready in time: {last}")
