"""Answers the API server's question about each labelled pod: here is its loader, or here is why it cannot be created.

No API calls while it answers. Nothing is allowed by accident: what is not a review of a pod's creation gets an HTTP
error, which the API server turns into a refusal; what goes wrong inside is logged and refused without internals.
"""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
from asyncio import sslproto
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import structlog
from aiohttp import web
from lightkube import AsyncClient

from preheat.errors import CheckpointError
from preheat_operator import health, kube, metrics
from preheat_operator.admission import LABELLED, Entry, PipelineMissingError, admit, missing
from preheat_operator.api import LABEL
from preheat_operator.cache import PipelineCache
from preheat_operator.injection import cautions
from preheat_operator.json_patch import json_patch
from preheat_operator.serving_certificate import ServingCertificate
from preheat_operator.settings import Settings

PATH = "/inject"
BODY_LIMIT = 8 * 1024 * 1024  # the API server's largest object is below 3 MiB
#: A pipeline that was created in the same breath as its pod arrives by watch; the API server waits 5 s for us, and
#: says so when it is told to wait for less.
PATIENCE_SECONDS = 2.0
_TIMEOUT = re.compile(r"(\d+)s")
#: Longer than Go keeps an idle connection: the client closes first, and no request meets a closing server.
_KEEPALIVE_SECONDS = 120
_DRAIN_SECONDS = 3.0
_SHUTDOWN_SECONDS = 10
#: Of connections that wait to be accepted: the API server speaks HTTP/1.1 to us, so each pod of a burst brings its own.
_BACKLOG = 1024
#: asyncio sets 256 KiB aside for what a TLS connection may bring at once; a review has a few.
_TLS_BUFFER = 32 * 1024

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Answer:
    """The outcome of one review."""

    result: str  # one of metrics.RESULTS
    patch: list[dict[str, Any]] | None = None
    warnings: tuple[str, ...] = ()
    refusal: str | None = None
    code: int = 403
    rule: str | None = None  # by which the pod's pipeline is, or is not, injected now

    def review(self, uid: str) -> dict[str, Any]:
        """The AdmissionReview that says so."""
        response: dict[str, Any] = {"uid": uid, "allowed": self.refusal is None}
        if self.refusal is not None:
            response["status"] = {"code": self.code, "message": self.refusal}
        if self.patch:
            response["patchType"] = "JSONPatch"
            response["patch"] = b64encode(json.dumps(self.patch).encode()).decode()
        if self.warnings:
            response["warnings"] = list(self.warnings)
        return {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": response}


class Webhook:
    """The reviews of one process."""

    def __init__(self, cache: PipelineCache, settings: Settings, patience: float = PATIENCE_SECONDS) -> None:
        self.draining = False
        self._cache = cache
        self._settings = settings
        self._patience = patience

    def application(self) -> web.Application:
        """The HTTP side: one path, one method."""
        application = web.Application(client_max_size=BODY_LIMIT)
        application.router.add_post(PATH, self._review)
        return application

    async def _review(self, request: web.Request) -> web.Response:
        if request.content_type != "application/json":
            raise web.HTTPUnsupportedMediaType(text="send application/json")
        question = _question(await request.read())
        began = perf_counter()
        answer = await self._answer(question, self._patience_for(request.query.get("timeout", "")))
        _count(question, answer, perf_counter() - began)
        response = web.json_response(answer.review(question["uid"]))
        if self.draining:
            response.force_close()
        return response

    def _patience_for(self, timeout: str) -> float:
        """Who answers when nobody listens any more has no say in the refusal's text."""
        told = _TIMEOUT.fullmatch(timeout)
        return min(self._patience, int(told[1]) / 2) if told else self._patience

    async def _answer(self, question: Mapping[str, Any], patience: float) -> Answer:
        """The webhook's door: whatever happens inside becomes an answer."""
        try:
            answer = await self.decide(question, patience)
        except CheckpointError as refusal:
            answer = Answer("refused", refusal=str(refusal), rule=refusal.reason)
        except Exception:  # a bug must neither let the pod through nor show its insides
            incident = secrets.token_hex(4)
            _log.exception("review failed", incident=incident, namespace=question.get("namespace"))
            text = f"Preheat failed on this pod. Its operator's log has the reason under incident {incident}"
            return Answer("error", refusal=text, code=500)
        _log.debug("review", result=answer.result, namespace=question.get("namespace"), why=answer.refusal)
        return answer

    async def decide(self, question: Mapping[str, Any], patience: float) -> Answer:
        """What to do with one pod; raises CheckpointError when it cannot have its checkpoint."""
        pod, namespace = question["object"], str(question.get("namespace") or "")
        labels = (pod.get("metadata") or {}).get("labels") or {}
        if LABEL not in labels:
            return Answer("ignored")
        if not self._cache.synced:
            return Answer("error", refusal="Preheat is starting and knows no pipelines yet. Try again", code=503)
        entry = await self._entry(namespace, labels[LABEL], patience)
        injected = admit(pod, namespace, entry, self._settings)
        patch = json_patch(pod, injected)
        warnings = (*entry.warnings, *cautions(injected, entry.pin)) if patch else ()
        return Answer("injected", patch, warnings, rule=LABELLED) if patch else Answer("unchanged")

    async def _entry(self, namespace: str, name: str, patience: float) -> Entry:
        entry = await self._cache.find(namespace, name, patience) if name else None
        if entry is None:
            raise missing(namespace, name, self._cache.names(namespace))
        return entry


def _count(question: Mapping[str, Any], answer: Answer, seconds: float) -> None:
    metrics.ADMISSION_REVIEWS.labels(answer.result).inc()
    metrics.ADMISSION_SECONDS.labels(answer.result).observe(seconds)
    if answer.rule is not None:
        # Anything may stand in a label: only pipelines that exist are counted by their names.
        name = "" if answer.rule == PipelineMissingError.reason else question["object"]["metadata"]["labels"][LABEL]
        metrics.PIPELINE_REVIEWS.labels(str(question.get("namespace") or ""), name, answer.rule).inc()


def _question(body: bytes) -> Mapping[str, Any]:
    """The request in an AdmissionReview of a pod's creation; anything else is 400."""
    try:
        review = json.loads(body)
    except (ValueError, RecursionError):
        raise web.HTTPBadRequest(text="the body is not JSON") from None
    if not isinstance(review, dict) or review.get("kind") != "AdmissionReview":
        raise web.HTTPBadRequest(text="the body is not an AdmissionReview")
    if review.get("apiVersion") != "admission.k8s.io/v1":
        raise web.HTTPBadRequest(text="only AdmissionReviews of admission.k8s.io/v1 are understood")
    question = review.get("request")
    if not isinstance(question, dict) or not isinstance(question.get("uid"), str) or not question["uid"]:
        raise web.HTTPBadRequest(text="the AdmissionReview holds no request with a uid")
    about = {"kind": {"group": "", "version": "v1", "kind": "Pod"}, "operation": "CREATE"}
    if any(question.get(key) != value for key, value in about.items()) or question.get("subResource"):
        raise web.HTTPBadRequest(text="only the creation of pods is reviewed here")
    if not isinstance(question.get("object"), dict):
        raise web.HTTPBadRequest(text="the request holds no pod")
    return question


async def serve(settings: Settings) -> None:
    """Answer reviews until the process is told to stop."""
    config = kube.present()
    certificate, stop = ServingCertificate(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(each, stop.set)
    async with kube.http(config) as http, AsyncClient(config) as client:
        cache = PipelineCache(http)
        webhook = Webhook(cache, settings)
        metrics.CACHE_SYNCED.set_function(lambda: float(cache.problem is None))
        metrics.CACHE_AGE.set_function(lambda: cache.age)

        def ready() -> str | None:
            return "the process is stopping" if stop.is_set() else cache.problem or certificate.problem

        metrics.READY.set_function(lambda: float(ready() is None))
        metrics.begin(metrics.ADMISSION_REVIEWS, metrics.RESULTS)
        metrics.begin(metrics.ADMISSION_SECONDS, metrics.RESULTS)
        async with (
            health.serving(settings.health_port, alive=lambda: None, ready=ready, registry=metrics.WEBHOOK),
            asyncio.TaskGroup() as tasks,  # ends the process when one of them dies: the kubelet starts it again
        ):
            followers = [tasks.create_task(cache.run()), tasks.create_task(certificate.keep(client, settings))]
            await _listen(webhook, certificate, settings.port, stop)
            for follower in followers:
                follower.cancel()


async def _listen(webhook: Webhook, certificate: ServingCertificate, port: int, stop: asyncio.Event) -> None:
    """Serve until `stop`, then let clients go: every answer closes its connection, and the last ones are waited for."""
    sslproto.SSLProtocol.max_size = _TLS_BUFFER
    runner = web.AppRunner(
        webhook.application(),
        access_log=None,
        keepalive_timeout=_KEEPALIVE_SECONDS,
        shutdown_timeout=_SHUTDOWN_SECONDS,
    )
    await runner.setup()
    try:
        await web.TCPSite(runner, port=port, ssl_context=certificate.context, backlog=_BACKLOG).start()
        await stop.wait()
        webhook.draining = True
        await asyncio.sleep(_DRAIN_SECONDS)
    finally:
        await runner.cleanup()
