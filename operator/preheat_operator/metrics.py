"""What both processes count, by Prometheus' conventions; each has a registry of its own, so none shows false zeros."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

# Answers are expected within 25 ms and refused by the API server after 5 s.
_ADMISSION_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
# From a pod that is scheduled at once to the Job's deadline; from a bundle that is there to terabytes.
_CHECK_BUCKETS = (1, 2.5, 5, 10, 20, 30, 60, 120, 300)
_LOADER_BUCKETS = (0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)


def _registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry


WEBHOOK = _registry()
ADMISSION_REVIEWS = Counter(
    "preheat_admission_reviews_total", "Admission reviews answered, by result.", ["result"], registry=WEBHOOK
)
RESULTS = ("injected", "unchanged", "ignored", "refused", "error")
READY = Gauge(
    "preheat_webhook_ready",
    "1 while this replica can answer: its cache follows the API server, and its certificate is trusted.",
    registry=WEBHOOK,
)
ADMISSION_SECONDS = Histogram(
    "preheat_admission_seconds",
    "Time to answer an admission review, by result.",
    ["result"],
    buckets=_ADMISSION_BUCKETS,
    registry=WEBHOOK,
)
#: `namespace` is what the scrape calls the webhook's own.
PIPELINE_REVIEWS = Counter(
    "preheat_pipeline_reviews_total",
    "Labelled pods, by pipeline and the rule that decided; no pipeline where their label names none that exists.",
    ["pipeline_namespace", "pipeline", "reason"],
    registry=WEBHOOK,
)
CACHE_SYNCED = Gauge("preheat_cache_synced", "1 while the cache of pipelines follows the API server.", registry=WEBHOOK)
CACHE_AGE = Gauge(
    "preheat_cache_age_seconds", "Time since the API server was last heard; +Inf before that.", registry=WEBHOOK
)
CERTIFICATE_EXPIRY = Gauge(
    "preheat_certificate_expiry_timestamp_seconds", "When the serving certificate ends, as Unix time.", registry=WEBHOOK
)

CONTROLLER = _registry()
PODS = Gauge("preheat_pods", "Labelled pods, by what became of their loader.", ["phase"], registry=CONTROLLER)
STATUS_WRITES = Counter("preheat_status_writes_total", "Statuses of pipelines written.", registry=CONTROLLER)
PIPELINES_WAITING = Gauge(
    "preheat_pipelines_waiting", "Pipelines that are being looked at, or are about to be.", registry=CONTROLLER
)
LOADER_FAILURES = Counter(
    "preheat_loader_failures_total", "Runs of loaders that failed, by reason.", ["reason"], registry=CONTROLLER
)
LOADER_SECONDS = Histogram(
    "preheat_loader_seconds",
    "Time of loaders' runs that ended well, by outcome: loaded, or reused a bundle of the volume.",
    ["outcome"],
    buckets=_LOADER_BUCKETS,
    registry=CONTROLLER,
)
LOADER_BYTES = Counter(
    "preheat_loader_fetched_bytes_total", "Bytes that loaders read of sources and that ended well.", registry=CONTROLLER
)
UPLOAD_PODS = Gauge(
    "preheat_upload_pods", "Pods that upload what they save, by what their upload does.", ["state"], registry=CONTROLLER
)
UPLOADS_WAITING = Gauge(
    "preheat_uploads_waiting", "Checkpoints and files that can be sent and are not there yet.", registry=CONTROLLER
)
UPLOADED = Counter("preheat_uploaded_total", "Checkpoints and single files that uploads sent.", registry=CONTROLLER)
UPLOADED_BYTES = Counter("preheat_uploaded_bytes_total", "Bytes that uploads sent.", registry=CONTROLLER)
UPLOAD_FAILURES = Counter(
    "preheat_upload_failures_total", "Attempts of uploads that failed, by reason.", ["reason"], registry=CONTROLLER
)
UNSENT = Counter(
    "preheat_unsent_pods_total", "Pods that ended before all that they saved was sent.", registry=CONTROLLER
)
CHECK_SECONDS = Histogram(
    "preheat_check_seconds",
    "Time from the making of a check's Job to its end, by result: found, failed, or not_run.",
    ["result"],
    buckets=_CHECK_BUCKETS,
    registry=CONTROLLER,
)


def begin(counter: Counter | Histogram, values: Iterable[str]) -> None:
    """Count from zero for each value of the label: increase() does not see the first of a series that was not there."""
    for value in values:
        counter.labels(value)


def forget_pipeline(namespace: str, name: str) -> None:
    """Count no longer for a pipeline that is gone: names come and go, and each would stay in memory."""
    PIPELINE_REVIEWS.remove_by_labels({"pipeline_namespace": namespace, "pipeline": name})


def exposition(registry: CollectorRegistry) -> bytes:
    """The registry in Prometheus' text format."""
    return generate_latest(registry)
