"""No credential shows: canaries go through loader, check, controller and webhook, whatever goes wrong.

Everything that these leave behind is searched: logs with all libraries at DEBUG, termination messages, files on the
volume, what the controller writes and posts, what the webhook answers and annotates. Of the training process see
`shim/test_apply_pipeline.py`.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import jsonpatch
import numpy
import pytest
import structlog
from aiohttp.test_utils import TestClient, TestServer
from loader.loader_process import environment, message_path
from safetensors.numpy import save
from sources import s3_server
from sources.fault_server import FaultServer

from preheat_operator import kube, logs
from preheat_operator.api import KIND, LABEL, Pipeline
from preheat_operator.cache import PipelineCache
from preheat_operator.controller import Controller
from preheat_operator.injection import inject
from preheat_operator.settings import Settings
from preheat_operator.webhook import PATH, Webhook

CHECKPOINT = save({"layer.weight": numpy.ones((4, 8), dtype="float32")})
TRAINING: dict[str, Any] = {"containers": [{"name": "train", "image": "trainer:1"}]}
SETTINGS = Settings(namespace="preheat-system", loader_image="loader:1", log_level="debug")
NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)

ACCESS, SECRET, SESSION = "CANARYACCESSKEY00001", "CANARYsecretKey0123456789/+abcdefgh", "CANARYsession0123456789"
TOKEN, USER, PASSWORD = "CANARYtoken.0123456789-_abc", "someone", "CANARYpassword0123456789"
SIGNED = "X-Amz-Signature=CANARYsignature0123456789&sig=CANARYshared%2F0123456789"
BASIC = b64encode(f"{USER}:{PASSWORD}".encode()).decode()

#: A library at DEBUG tells of its own affairs, too: in the loader's own process, by its own way of logging.
LOUD = """
import logging, runpy, sys
quiet = logging.basicConfig
logging.basicConfig = lambda **options: quiet(**{**options, "level": logging.DEBUG})
sys.argv[:] = [sys.argv[1]]
runpy.run_module(sys.argv[0], run_name="__main__")
"""


def shown(text: str) -> list[str]:
    """What of the credentials a text shows; everything that is searched comes here."""
    return [line for line in text.splitlines() if "canary" in line.lower() or BASIC in line]


@dataclass(frozen=True)
class Case:
    """One way of reading with credentials, and what becomes of it."""

    source: Mapping[str, Any]  # `{origin}` and `{endpoint}` stand for the servers
    secrets: Mapping[str, str] = field(default_factory=dict)
    fault: Mapping[str, Any] = field(default_factory=dict)
    ends: str = "loaded"
    module: str = "preheat.loader"


HTTP = {"http": {"url": "{origin}/model.safetensors", "secretRef": "web"}}
URL = {"http": {"url": "{origin}/model.safetensors?" + SIGNED}}
S3 = {"s3": {"bucket": "models", "key": "model.safetensors", "endpoint": "{endpoint}", "secretRef": "s3"}}
BEARER = {"PREHEAT_HTTP_TOKEN": TOKEN}
LOGIN = {"PREHEAT_HTTP_USERNAME": USER, "PREHEAT_HTTP_PASSWORD": PASSWORD}
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET}
CASES = {
    "a token": Case(HTTP, BEARER),
    "a token that the server repeats": Case(HTTP, BEARER, {"status": 403, "phrase": f"Bearer {TOKEN}"}, "AccessDenied"),
    "a password that the server repeats": Case(
        HTTP, LOGIN, {"status": 401, "phrase": f"{BASIC} {PASSWORD}"}, "AccessDenied", "preheat.source_check"
    ),
    "a signed URL": Case(URL),
    "a signed URL that leads nowhere": Case(URL, {}, {"status": 404, "phrase": f"no /model?{SIGNED}"}, "NotFound"),
    "a signed URL in a circle": Case(
        URL,
        {},
        {"status": 302, "headers": {"Location": f"/model.safetensors?{SIGNED}"}},
        "SourceUnreachable",
        "preheat.source_check",
    ),
    "keys": Case(S3, KEYS),
    "keys of a session that is none": Case(S3, {**KEYS, "AWS_SESSION_TOKEN": SESSION}, {}, "AccessDenied"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[FaultServer]:
    with FaultServer().running() as running:
        running.serve("/model.safetensors", CHECKPOINT)
        yield running


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    if s3_server.executable() is None:
        pytest.skip("versitygw is not built; `make test` or tests/cluster builds it")
    with s3_server.running(tmp_path_factory.mktemp("s3"), ACCESS, SECRET) as url:
        client = s3_server.client(url, ACCESS, SECRET)
        client.create_bucket(Bucket="models")
        client.put_object(Bucket="models", Key="model.safetensors", Body=CHECKPOINT)
        yield url


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """What the operator logs at DEBUG."""
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    logs.configure(SETTINGS)
    yield stream
    structlog.reset_defaults()


@dataclass(frozen=True)
class Left:
    """What a process has left behind."""

    code: int
    log: str
    message: str
    files: str


def run(case: Case, stages: list[Any], volume: Path) -> Left:
    variables = environment(stages, volume, maxRetries=0, timeoutSeconds=10)
    variables |= {"AWS_EC2_METADATA_DISABLED": "true", **case.secrets}
    command = [sys.executable, "-c", LOUD, case.module]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    files = [f"{path} {path.read_bytes()!r}" for path in volume.rglob("*") if path.is_file()]
    message = message_path(volume, variables["PREHEAT_POD_UID"]).read_text()
    return Left(done.returncode, done.stdout + done.stderr, message, "\n".join(files))


def stages_of(case: Case, origin: str, endpoint: str) -> list[Any]:
    [(name, parameters)] = case.source.items()
    placed = {key: value.format(origin=origin, endpoint=endpoint) for key, value in parameters.items()}
    return [{name: placed}, {"weightsOnly": {}}]


def resource_of(stages: list[Any]) -> dict[str, Any]:
    metadata = {"name": "finetune", "namespace": "team-a", "uid": "u", "generation": 1, "resourceVersion": "1"}
    return {"kind": KIND, "metadata": metadata, "spec": {"stages": stages}}


@pytest.mark.parametrize("name", CASES)
async def test_nothing_that_is_left_behind_shows_a_credential(
    name: str, server: FaultServer, request: pytest.FixtureRequest, tmp_path: Path, logged: io.StringIO
) -> None:
    case = CASES[name]
    endpoint = request.getfixturevalue("endpoint") if "s3" in case.source else ""
    server.always(**case.fault)
    stages = stages_of(case, server.origin, endpoint)
    left = run(case, stages, tmp_path / "volume")
    message = json.loads(left.message)
    assert message.get("reason", message["outcome"]) == case.ends, left.log
    assert "Changing event name" in left.log or "s3" not in case.source, "botocore is not at DEBUG"
    for text in (left.log, left.message, left.files, await controlled(stages, left), logged.getvalue()):
        assert shown(text) == []


class Cluster:
    """What the controller asks of an API server about one pipeline; keeps what is written."""

    def __init__(self, pipeline: dict[str, Any], pods: list[dict[str, Any]]) -> None:
        self.written: list[dict[str, Any]] = []
        self._pipeline = pipeline
        self._pods = pods

    async def get(self, *_: Any, **__: Any) -> dict[str, Any]:
        return self._pipeline

    async def list(self, kind: Any, **_: Any) -> AsyncIterator[dict[str, Any]]:
        for each in self._pods if kind is kube.Pod else []:
            yield each

    async def create(self, wanted: dict[str, Any]) -> None:
        self.written.append(wanted)

    async def replace(self, wanted: dict[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        self.written.append(wanted)
        return {"metadata": {"resourceVersion": "2"}}


async def controlled(stages: list[Any], left: Left) -> str:
    """All that the controller writes about a pod that ended so, but for the pipeline's own text."""
    pipeline = resource_of(stages)
    ended = {"exitCode": left.code, "finishedAt": "2026-05-04T11:59:00Z", "message": left.message}
    pod = inject({"metadata": {"name": "train-0", "uid": "p"}, "spec": TRAINING}, Pipeline.parse(pipeline), SETTINGS)
    pod["status"] = {"initContainerStatuses": [{"name": "preheat-loader", "state": {"terminated": ended}}]}
    cluster = Cluster(pipeline, [pod])
    await Controller(cluster, SETTINGS, clock=lambda: NOW).refresh(("team-a", "finetune"))  # type: ignore[arg-type]
    job, written, *events = cluster.written
    assert events
    assert written["status"]["conditions"]
    [container] = job["spec"]["template"]["spec"]["containers"]
    container["env"] = [each for each in container["env"] if each["name"] != "PREHEAT_PIPELINE"]
    return json.dumps([job, written["metadata"], written["status"], *events])


async def test_the_webhook_neither_annotates_nor_logs_a_credential(logged: io.StringIO) -> None:
    cache = PipelineCache(httpx2.AsyncClient())
    cache._apply({"type": "ADDED", "object": resource_of(stages_of(CASES["a signed URL"], "http://h", ""))})
    cache._wake()
    asked = {"metadata": {"labels": {LABEL: "finetune"}}, "spec": TRAINING}
    own = {"containers": [{**TRAINING["containers"][0], "env": [{"name": "PREHEAT_BUNDLE", "value": TOKEN}]}]}
    question = {"kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE", "namespace": "team-a"}
    review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    async with TestClient(TestServer(Webhook(cache, SETTINGS, 0.01).application())) as client:
        answers = []
        for spec in (TRAINING, own, {"containers": 7}):  # injected, refused, a defect
            request = {**question, "uid": "1", "object": {**asked, "spec": spec}}
            async with client.post(PATH, json={**review, "request": request}) as answer:
                answers.append((await answer.json())["response"])
    injected = jsonpatch.apply_patch({**asked, "spec": TRAINING}, json.loads(b64decode(answers[0]["patch"])))
    assert [answer["allowed"] for answer in answers] == [True, False, False]
    for text in (json.dumps([injected["metadata"], answers[1:]]), logged.getvalue()):
        assert text
        assert shown(text) == []
