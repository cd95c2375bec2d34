"""The controller's parts that need no cluster: worklist, Events, logs, metrics, health, connection, kopf's limits."""

import asyncio
import io
import json
import logging
import socket
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import httpx2
import kopf
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from lightkube import ApiError, AsyncClient
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import Cluster, Context, User
from typer.testing import CliRunner

from faults.fake_api import FakeApi
from preheat_operator import health, kube, logs, metrics
from preheat_operator.__main__ import app
from preheat_operator.announcement import Announcement
from preheat_operator.controller import Controller, handlers, watching
from preheat_operator.events import announcements
from preheat_operator.loader_run import Failure, Success
from preheat_operator.observation import PodReport
from preheat_operator.progress import Progress
from preheat_operator.settings import Settings
from preheat_operator.upload_account import Account
from preheat_operator.worklist import Worklist

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
PIPELINE = {"metadata": {"name": "finetune", "namespace": "team-a", "uid": "p-1", "generation": 2}}
NOT_FOUND = Failure("2026-05-04T11:59:00Z", "NotFound", "no such key", "Check the key")


def report(name: str = "a", phase="failed", **facts) -> PodReport:
    return PodReport(name, f"uid-{name}", "2026-05-04T11:00:00Z", phase, **facts)


async def until(condition) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.002)


async def test_a_burst_is_one_pass_and_a_change_meanwhile_one_more() -> None:
    passes, go = [], asyncio.Event()

    async def work(key: str) -> None:
        passes.append(key)
        await go.wait()

    worklist = Worklist(work, pause=0.01)
    for _ in range(50):
        worklist.add("a")
    await until(lambda: passes == ["a"])
    worklist.add("a")
    worklist.add("a")
    go.set()
    await until(lambda: not len(worklist))
    assert passes == ["a", "a"]


async def test_what_is_added_while_the_list_is_held_is_one_pass() -> None:
    passes = []

    async def work(key: str) -> None:
        passes.append(key)

    worklist = Worklist(work, pause=0)
    worklist.hold()
    for _ in range(3):
        worklist.add("a")
        await asyncio.sleep(0.01)
    assert passes == []
    worklist.release()
    await until(lambda: not len(worklist))
    assert passes == ["a"]


async def test_what_fails_is_tried_again_and_given_up_in_the_end(caplog) -> None:
    tries = []

    async def work(key: str) -> None:
        tries.append(key)
        raise OSError("no")

    worklist = Worklist(work, pause=0.001, delays=(0.001, 0.001))
    worklist.add("a")
    await until(lambda: not len(worklist))
    assert len(tries) == 3


async def test_what_asks_not_to_be_tried_again_so_soon_is_obeyed() -> None:
    tries, began = [], time.monotonic()

    async def work(key: str) -> None:
        tries.append(key)
        if len(tries) == 1:
            raise overloaded

    answer = httpx2.Response(429, headers={"Retry-After": "1"}, request=httpx2.Request("GET", "http://api"))
    overloaded = httpx2.HTTPStatusError("overloaded", request=answer.request, response=answer)
    worklist = Worklist(work, pause=0.001, delays=(0.001,), asked=kube.asked_to_wait)
    worklist.add("a")
    await until(lambda: not len(worklist))
    assert len(tries) == 2
    assert time.monotonic() - began >= 1
    assert kube.asked_to_wait(OSError("no")) == 0


async def test_one_failing_key_does_not_hold_the_others() -> None:
    done = []

    async def work(key: str) -> None:
        if key == "bad":
            raise OSError("no")
        done.append(key)

    worklist = Worklist(work, pause=0.001, parallel=1, delays=(60,))
    for key in ("bad", "b", "c"):
        worklist.add(key)
    await until(lambda: sorted(done) == ["b", "c"])
    await worklist.close()
    assert len(worklist) == 0


def told(*reports: PodReport) -> list[Announcement]:
    return list(announcements(PIPELINE, reports, NOW))


def test_a_failure_is_told_on_the_pod_and_on_the_pipeline() -> None:
    on_pod, on_pipeline = told(report(failure=NOT_FOUND))
    assert (on_pod.kind, on_pod.name, on_pod.type, on_pod.reason) == ("Pod", "a", "Warning", "NotFound")
    assert on_pod.message == "checkpoint not loaded: no such key. Check the key"
    assert (on_pipeline.kind, on_pipeline.name) == ("CheckpointPipeline", "finetune")
    assert on_pipeline.message.startswith("pod a: checkpoint not loaded")


def test_the_same_news_has_the_same_name_and_another_run_another() -> None:
    first, again = told(report(failure=NOT_FOUND))[0], told(report(failure=NOT_FOUND))[0]
    rerun = told(report(failure=Failure(**{**NOT_FOUND.__dict__, "run": 1})))[0]
    assert first.event_name == again.event_name != rerun.event_name
    assert first.event_name.startswith("a.")


def test_a_first_load_is_told_with_its_version() -> None:
    success = Success("2026-05-04T11:59:00Z", {"uri": "s3://b/k", "version": "v7"})
    on_pod, on_pipeline = told(report(phase="loaded", success=success))
    assert (on_pod.reason, on_pod.type) == ("CheckpointLoaded", "Normal")
    assert on_pipeline.message == "read s3://b/k at version v7"


def test_what_is_older_than_an_hour_is_no_news() -> None:
    old = Failure("2026-05-04T10:59:00Z", "NotFound", "m", "")
    assert told(report(failure=old), report(phase="loaded", success=Success("2026-05-04T10:00:00Z", {}))) == []


def test_a_missed_pod_is_told_what_to_do() -> None:
    on_pod = told(report(phase="missed"))[0]
    assert on_pod.reason == "NotInjected"
    assert on_pod.message.endswith("Make the pod anew")


def checked(reason: str = "", ready_since: str = "11:58:00", **check: str) -> list[Announcement]:
    found = {"time": "2026-05-04T11:58:00Z", "uri": "s3://b/k", "version": "v2", **check}
    if reason:
        found |= {"reason": reason, "message": "no such key", "remedy": "Check the key"}
    ready = {"type": "Ready", "status": "False", "lastTransitionTime": f"2026-05-04T{ready_since}Z"}
    return list(announcements({**PIPELINE, "status": {"check": found, "conditions": [ready]}}, [], NOW))


def test_a_check_that_failed_is_told_once_for_as_long_as_it_fails() -> None:
    [first] = checked("NotFound")
    assert (first.kind, first.name, first.type, first.reason) == (
        "CheckpointPipeline",
        "finetune",
        "Warning",
        "NotFound",
    )
    assert first.message == "check of the source: no such key. Check the key"
    [again] = checked("NotFound", time="2026-05-04T11:59:00Z")
    assert again.event_name == first.event_name
    assert checked("AccessDenied")[0].event_name != first.event_name
    assert checked("NotFound", ready_since="11:59:00")[0].event_name != first.event_name, "it was found in between"
    assert checked("NotFound", time="2026-05-04T10:58:00Z") == []


def test_another_version_under_a_refresh_is_told() -> None:
    assert checked() == []
    [changed] = checked(previousVersion="v1")
    assert (changed.type, changed.reason) == ("Normal", "VersionChanged")
    assert changed.message == "s3://b/k has version v2, it had v1: pods that are made from now on get the new one"


class Accepting:
    """An API server that stores Events under their names, and refuses those that are there."""

    def __init__(self) -> None:
        self.names: set[str] = set()

    async def create(self, event) -> None:
        if event["metadata"]["name"] in self.names:
            status = {"kind": "Status", "code": 409, "message": "already exists"}
            raise ApiError(request=None, response=httpx2.Response(409, json=status))
        self.names.add(event["metadata"]["name"])


async def test_a_run_is_counted_once_whoever_tells_it() -> None:
    loaded = Success("2026-05-04T11:59:00Z", {}, fetched_bytes=3000, seconds=1.5, outcome="loaded")
    news = told(report(phase="loaded", success=loaded), report("b", failure=NOT_FOUND))
    value = metrics.CONTROLLER.get_sample_value
    names = ("preheat_loader_fetched_bytes_total", {}), ("preheat_loader_seconds_sum", {"outcome": "loaded"})
    failures = "preheat_loader_failures_total", {"reason": "NotFound"}
    before = [value(*name) or 0 for name in (*names, failures)]
    client = Accepting()
    for controller in (Controller(client, settings()), Controller(client, settings())):  # type: ignore[arg-type]
        for announcement in (*news, *news):
            await controller._tell(announcement, NOW)
    after = [value(*name) for name in (*names, failures)]
    assert [b - a for a, b in zip(before, after, strict=True)] == [3000, 1.5, 1]


def test_many_failures_do_not_flood_the_pipeline() -> None:
    news = told(*(report(f"p{i}", failure=NOT_FOUND) for i in range(40)))
    assert sum(each.kind == "CheckpointPipeline" for each in news) == 5
    assert sum(each.kind == "Pod" for each in news) == 40


def settings(**changes) -> Settings:
    return Settings(namespace="preheat-system", loader_image="loader:1", **changes)


def test_logs_are_json_without_credentials(monkeypatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(settings())
    logging.getLogger("aiohttp.server").error("got %s", "Authorization: Bearer abc.def-1")
    logging.getLogger("kopf.objects").info("Handler succeeded")
    logging.getLogger("x").warning("s3://key:hunter2@host/b and aws_secret_access_key=AKIA12 and token: t0p")
    logging.getLogger("x").warning("'Authorization': 'Basic c29tZW9uZQ==' for https://h/m?a=1&sig=s1gned%2F and more")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [line["level"] for line in lines] == ["error", "warning", "warning"]
    secrets = ("abc.def", "hunter2", "AKIA12", "t0p", "c29tZW9uZQ", "s1gned")
    assert not any(secret in stream.getvalue() for secret in secrets)
    assert lines[2]["event"].endswith("and more")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


async def test_health_answers_for_the_kubelet_and_for_prometheus() -> None:
    reason: str | None = "not synced"
    port = free_port()
    checks = {"alive": lambda: None, "ready": lambda: reason, "registry": metrics.CONTROLLER}
    async with health.serving(port, **checks), aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
        assert (await http.get("/healthz")).status == 200
        unready = await http.get("/readyz")
        assert (unready.status, await unready.text()) == (503, "not synced")
        reason = None
        assert (await http.get("/readyz")).status == 200
        assert (await http.get("/")).status == 404
        assert "preheat_status_writes_total" in await (await http.get("/metrics")).text()


def test_kopf_learns_the_cluster_from_a_kubeconfig(tmp_path: Path) -> None:
    path = tmp_path / "config"
    path.write_text(
        json.dumps(
            {
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
                "clusters": [{"name": "k", "cluster": {"server": "https://k:6443", "certificate-authority": "ca.crt"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )
    found = kube.connection(KubeConfig.from_file(path).get())
    assert (found.server, found.token, found.scheme) == ("https://k:6443", "t", "Bearer")
    assert found.ca_path == str(tmp_path / "ca.crt")


def test_kopf_reads_a_projected_token_anew(tmp_path: Path, monkeypatch) -> None:
    for name, text in (("token", "first\n"), ("namespace", "preheat-system"), ("ca.crt", "x")):
        (tmp_path / name).write_text(text)
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    config = KubeConfig.from_service_account(tmp_path).get()
    assert kube.connection(config).server == "https://10.96.0.1:443"
    (tmp_path / "token").write_text("second\n")
    assert kube.connection(config).token == "second"


async def test_kopf_stores_nothing_in_objects() -> None:
    settings = Settings("preheat-system", "loader:1")
    registry = handlers(Controller(None, settings), settings)  # type: ignore[arg-type]
    assert len(registry._watching.get_all_handlers()) == 2
    without = replace(settings, check=False)
    assert len(handlers(Controller(None, without), without)._watching.get_all_handlers()) == 1  # type: ignore[arg-type]
    assert not registry._changing.get_all_handlers()
    assert not registry._spawning.get_all_handlers()


def test_kopf_has_jobs_selected_by_the_api_server() -> None:
    jobs = kopf.Resource("batch", "v1", "jobs", kind="Job", singular="job", shortcuts=frozenset(), namespaced=True)
    selectors = watching().watching.label_selectors
    assert list(selectors.collect(jobs)) == ["preheat.dev/check"]


async def test_our_own_write_is_not_looked_at_again() -> None:
    controller = Controller(client=None, settings=None)  # type: ignore[arg-type]
    controller._seen["ns", "p"] = "17"
    controller.changed("ns", "p", "17")
    assert len(controller.worklist) == 0
    controller.changed("ns", "p", "18")
    assert len(controller.worklist) == 1
    await controller.worklist.close()


async def test_what_loaders_answer_is_in_the_status_until_they_are_done() -> None:
    api, key = FakeApi(), ("team-a", "finetune")
    spec = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}
    api.put("CheckpointPipeline", {"metadata": {"namespace": "team-a", "name": "finetune"}, "spec": spec})
    env = [{"name": "PREHEAT_PROGRESS_PORT", "value": "18738"}]
    running = {"name": "preheat-loader", "state": {"running": {}}}
    labelled = {"namespace": "team-a", "name": "a", "labels": {"preheat.dev/pipeline": "finetune"}}
    pod = {"metadata": labelled, "spec": {"initContainers": [{"name": "preheat-loader", "env": env}]}}
    uid = api.put("Pod", {**pod, "status": {"podIP": "10.1.0.7", "initContainerStatuses": [running]}})["metadata"][
        "uid"
    ]
    controller = Controller(api, settings(check=False))  # type: ignore[arg-type]
    await controller.refresh(key)
    assert controller.inquiry._pods == {key: {uid: "10.1.0.7"}}
    controller.inquiry._keep({key: {uid: Progress("transferring", 50, 100, 10, 0)}})
    assert len(controller.worklist) == 1
    await controller.worklist.close()
    for _ in range(3):
        await controller.refresh(key)
    [resource] = api.kind("CheckpointPipeline")
    assert resource["status"]["progress"]["summary"] == "50% 10 B/s 5s"
    assert api.calls.count(("replace", "Status")) == 2, "the same answers are not written again"
    done = {"name": "preheat-loader", "state": {"terminated": {"exitCode": 0, "finishedAt": "2026-05-04T11:59:00Z"}}}
    api.put("Pod", {**pod, "status": {"podIP": "10.1.0.7", "initContainerStatuses": [done]}})
    await controller.refresh(key)
    assert "progress" not in api.kind("CheckpointPipeline")[0]["status"]
    assert controller.inquiry._pods == {}


async def test_what_a_deleted_pod_had_not_sent_is_told_once_and_counted_once() -> None:
    api, key = FakeApi(), ("team-a", "finetune")
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    upload = {"path": "/output", "to": {"http": {"url": "https://files.example.org/"}}}
    metadata = {"namespace": "team-a", "name": "finetune"}
    api.put("CheckpointPipeline", {"metadata": metadata, "spec": {"stages": stages, "upload": upload}})
    env = [{"name": "PREHEAT_UPLOADS_PORT", "value": "18739"}]
    containers = [{"name": "preheat-loader"}, {"name": "preheat-upload", "env": env}]
    labelled = {"namespace": "team-a", "name": "a", "labels": {"preheat.dev/pipeline": "finetune"}}
    running = {"name": "preheat-upload", "state": {"running": {}}}
    status = {"podIP": "10.1.0.7", "initContainerStatuses": [running]}
    uid = api.put("Pod", {"metadata": labelled, "spec": {"initContainers": containers}, "status": status})["metadata"][
        "uid"
    ]
    controller, before = Controller(api, settings(check=False)), metrics.UNSENT._value.get()  # type: ignore[arg-type]
    await controller.refresh(key)
    assert controller.uploads._pods == {key: {uid: "10.1.0.7"}}
    controller.uploads._keep(
        {key: {uid: Account("failed", 1, waiting=2, names=("E3", "E4"), reason="AccessDenied", message="403")}}
    )
    await controller.worklist.close()
    for _ in range(2):
        await controller.refresh(key)
    assert api.kind("CheckpointPipeline")[0]["status"]["uploads"]["summary"] == "1 sent, 2 waiting, failing"
    api.delete("Pod", "team-a", "a")
    for _ in range(3):
        await controller.refresh(key)
    uploads = api.kind("CheckpointPipeline")[0]["status"]["uploads"]
    assert [(each["pod"], each["waiting"]) for each in uploads["unsent"]] == [("a", 2)]
    events = [each for each in api.kind("Event") if each["reason"] == "CheckpointsUnsent"]
    assert [each["involvedObject"]["name"] for each in events] == ["finetune"]
    assert metrics.UNSENT._value.get() == before + 1
    assert controller.uploads._pods == {}
    api.delete("CheckpointPipeline", "team-a", "finetune")
    await controller.refresh(key)


async def test_a_cluster_without_the_resource_is_waited_for() -> None:
    api = FakeApi()
    controller = Controller(api, Settings("preheat-system", "loader:1"))  # type: ignore[arg-type]
    assert controller.not_ready() == "the pipelines have not been listed yet"
    plain = httpx2.Response(404, text="404 page not found", request=httpx2.Request("GET", "http://api"))

    def no_such_resource(*_: object) -> None:
        plain.raise_for_status()

    api.fail = no_such_resource
    resync = asyncio.create_task(controller.resync(patience=(0.01,)))
    await until(lambda: "crds.install=true" in (controller.not_ready() or ""))
    api.fail = lambda _call, _when: None
    await until(lambda: controller.not_ready() is None)
    assert controller.listed.is_set()
    resync.cancel()


@pytest.mark.parametrize("answer", [b"<html>", b"[]", b'{"items": [{}]}', b"{}"])
async def test_what_answers_in_the_api_servers_place_is_no_answer(answer: bytes) -> None:
    """A proxy's page, say: a controller that had ended over it would be started again, and over it end again."""

    async def answers(_: web.Request) -> web.Response:
        return web.Response(body=answer, content_type="application/json")

    application = web.Application()
    application.router.add_get("/{path:.*}", answers)
    async with TestServer(application) as server:
        cluster = Cluster(server=str(server.make_url("")))
        config = SingleConfig(context_name="t", context=Context(cluster="t"), cluster=cluster, user=User())
        async with AsyncClient(config) as client:
            controller = Controller(client, Settings("preheat-system", "loader:1"))
            resync = asyncio.create_task(controller.resync(patience=(0.01,)))
            await until(lambda: controller.not_ready() != "the pipelines have not been listed yet")
            assert not resync.done()
            resync.cancel()


def test_a_process_without_settings_says_what_is_missing(monkeypatch) -> None:
    monkeypatch.delenv("PREHEAT_NAMESPACE", raising=False)
    result = CliRunner().invoke(app, ["controller"], env={"PREHEAT_PORT": "x"})
    assert result.exit_code == 1
    assert "PREHEAT_NAMESPACE is not set" in str(result.exception) or "PREHEAT_NAMESPACE is not set" in result.output
