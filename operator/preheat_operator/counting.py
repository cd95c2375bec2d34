"""Counts for Prometheus what the controller sees of pods: sums over all pipelines, and what has grown since."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from prometheus_client import Gauge

from preheat_operator import metrics
from preheat_operator.announcement import Announcement
from preheat_operator.loader_run import REASONS, Failure
from preheat_operator.observation import PodReport
from preheat_operator.status import pod_counts
from preheat_operator.upload_account import Account
from preheat_operator.uploads import STATES, UNSENT, Sender

Key = tuple[str, str]  # namespace and name of a pipeline
_PHASES = ("loading", "loaded", "continued", "failed", "missed")


class Counting:
    """What was counted of each pipeline last."""

    def __init__(self) -> None:
        self._levels: dict[Key, Mapping[Gauge, int]] = {}
        self._accounts: dict[Key, Mapping[str, Account | None]] = {}  # None: not known yet

    def pods(self, key: Key, reports: Sequence[PodReport], senders: Sequence[Sender]) -> None:
        """A pipeline has these pods now, and these uploads."""
        counts = pod_counts(reports)
        levels = {metrics.PODS.labels(phase): counts[phase] for phase in _PHASES}
        for state in STATES:
            levels[metrics.UPLOAD_PODS.labels(state)] = sum(each.state == state for each in senders)
        levels[metrics.UPLOADS_WAITING] = sum(each.account.waiting for each in senders)
        self._move(key, levels)
        self._accounts[key] = {each.uid: self._grown(key, each) for each in senders}

    def gone(self, key: Key) -> None:
        """A pipeline is no more."""
        self._move(key, {})
        self._accounts.pop(key, None)

    def told(self, announcement: Announcement) -> None:
        """Somebody was told of this for the first time."""
        run = announcement.run
        if announcement.reason == UNSENT and announcement.kind == "CheckpointPipeline":
            metrics.UNSENT.inc()
        elif isinstance(run, Failure):
            metrics.LOADER_FAILURES.labels(_known(run.reason)).inc()
        elif run:
            metrics.LOADER_BYTES.inc(run.fetched_bytes or 0)
            if run.outcome and run.seconds is not None:
                metrics.LOADER_SECONDS.labels(run.outcome).observe(run.seconds)

    def _grown(self, key: Key, sender: Sender) -> Account | None:
        """Count what an upload has done since; what it had when the pipeline was first seen was counted by another."""
        known = self._accounts[key].get(sender.uid, Account()) if key in self._accounts else None
        if sender.state == "silent":
            return known
        if known:
            _count(known, sender.account)
        return sender.account

    def _move(self, key: Key, levels: Mapping[Gauge, int]) -> None:
        before = self._levels.pop(key, {})
        if levels:
            self._levels[key] = levels
        for gauge in {**before, **levels}:
            gauge.inc(levels.get(gauge, 0) - before.get(gauge, 0))


def _count(before: Account, now: Account) -> None:
    """One that was started again begins at nothing."""
    if (now.uploaded, now.bytes, now.failures) < (before.uploaded, before.bytes, before.failures):
        before = Account()
    metrics.UPLOADED.inc(now.uploaded - before.uploaded)
    metrics.UPLOADED_BYTES.inc(max(now.bytes - before.bytes, 0))
    metrics.UPLOAD_FAILURES.labels(_known(now.reason)).inc(max(now.failures - before.failures, 0))


def _known(reason: str) -> str:
    """A pod's owner may write any word, and each would be a series."""
    return reason if reason in REASONS else "Other"
