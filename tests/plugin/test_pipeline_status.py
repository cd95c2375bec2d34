"""What `kubectl preheat status` shows of a pipeline and its pods."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from rich.console import Console

from preheat_operator.observation import observe
from preheat_operator.plugin.kubectl import ClusterError, NotAllowedError, NotThereError, error_of
from preheat_operator.plugin.pipeline_view import PipelineView, view
from preheat_operator.plugin.status_text import shown
from preheat_operator.plugin.text import as_lines
from preheat_operator.status import wanted_status
from preheat_operator.status_model import Status

NOW = datetime(2026, 5, 4, 12, 0, 0, tzinfo=UTC)
SOURCE = {
    "uri": "s3://models/a.ckpt",
    "version": "etag-1",
    "sizeBytes": 600_000_000,
    "format": "torch-zip",
    "tensors": 42,
    "parameters": 50_000_000,
    "selectedBytes": 200_000_000,
}
REPORT = {"outcome": "loaded", "source": SOURCE, "fetchedBytes": 200_100_000, "seconds": 2.5}
LOADED = json.dumps({**REPORT, "warnings": ["3 values are NaN"]})
MISSING = json.dumps({"outcome": "failed", "reason": "NotFound", "message": "no key a.ckpt", "remedy": "Check `key`"})


def pod(name: str, state: dict[str, Any] | None, made: str = "11:00:00") -> dict[str, Any]:
    told = json.dumps({"name": "finetune", "uid": "p", "generation": 2})
    loader = {"name": "preheat-loader", "env": [{"name": "PREHEAT_PIPELINE", "value": told}]}
    status = {"name": "preheat-loader", "restartCount": 0, "state": state}
    return {
        "metadata": {"name": name, "uid": name, "creationTimestamp": f"2026-05-04T{made}Z"},
        "spec": {"initContainers": [loader] if state is not None else [], "containers": [{"name": "train"}]},
        "status": {"initContainerStatuses": [status] if state is not None else []},
    }


def ended(code: int, message: str, minute: int = 57) -> dict[str, Any]:
    times = {"startedAt": f"2026-05-04T11:{minute}:00Z", "finishedAt": f"2026-05-04T11:{minute}:03Z"}
    return {"terminated": {"exitCode": code, "message": message, **times}}


PODS = [
    pod("loaded", ended(0, LOADED)),
    pod("failed", ended(11, MISSING, 58), "11:10:00"),
    pod("loading", {"running": {"startedAt": "2026-05-04T11:59:20Z"}}, "11:59:00"),
    pod("missed", None, "10:00:00"),
]


def pipeline(pods: list[dict[str, Any]]) -> dict[str, Any]:
    resource = {"metadata": {"name": "finetune", "namespace": "team-a", "uid": "p", "generation": 2}, "spec": {}}
    return {**resource, "status": wanted_status(resource, [observe(each) for each in pods], NOW)}


def seen(pods: list[dict[str, Any]] | None = PODS) -> PipelineView:
    return view(pipeline(pods or []), pods, NOW)


def lines(found: PipelineView) -> list[str]:
    return as_lines(shown(found, NOW)).splitlines()


def test_everything_that_is_known_is_on_a_line_of_its_own() -> None:
    text = lines(seen())
    assert text[0] == "finetune in team-a, generation 2"
    words = {line.split()[0]: " ".join(line.split()[1:]) for line in text if line.strip()}
    assert words["Ready"].startswith("False NotFound 0 s pod failed: no key a.ckpt. Check `key`")
    assert words["source"] == "s3://models/a.ckpt"
    assert words["takes"] == "42 tensors, 50.0 M parameters, 200.0 MB of 600.0 MB"
    assert words["warning"] == "3 values are NaN"
    assert words["pods"] == "1 loading, 1 loaded, 1 failed, 1 missed"
    assert words["loaded"] == "loaded 1 h 2.5 s 200.1 MB 80.0 MB/s 1 2"
    assert words["loading"] == "loading 1 min 40.0 s 1 2"
    assert words["missed"] == "missed 2 h"


def test_who_died_on_a_checkpoint_is_told_by_checkpoint() -> None:
    died = {"run": "s3://runs/exp-7/", "checkpoint": "m_cp=E4", "saved": 1.0, "began": 2.0, "pod": "b",
            "time": "2026-05-04T11:00:00Z", "reason": "OOMKilled"}  # fmt: skip
    entries = [{**died, "start": "3"}, {**died, "start": "2", "checkpoint": "m_cp=E3"}, {**died, "start": "1"}]
    text = [" ".join(line.split()) for line in lines(view({**pipeline([]), "status": {"deaths": entries}}, [], NOW))]
    assert "died on m_cp=E4 of s3://runs/exp-7/: the last of 2 in pod b 1 h ago (OOMKilled)" in text
    assert "died on m_cp=E3 of s3://runs/exp-7/: one in pod b 1 h ago (OOMKilled)" in text


def test_a_merge_shows_how_many_tensors_are_from_each_source() -> None:
    merged = [
        {"uri": "s3://zoo/stem.pth", "version": "etag-1", "tensors": 1},
        {"uri": "s3://zoo/vit.pth", "tensors": 41},
    ]
    told = json.dumps({**REPORT, "source": {**SOURCE, "merged": [*merged, "no source"]}})
    text = [" ".join(line.split()) for line in lines(seen([pod("loaded", ended(0, told))]))]
    assert "merged 1 tensor of s3://zoo/stem.pth" in text
    assert "merged 41 tensors of s3://zoo/vit.pth" in text
    status = pipeline([pod("loaded", ended(0, told))])["status"]
    assert status["source"]["merged"] == merged
    assert Status.model_validate(status)


def test_a_running_loader_shows_how_far_it_is() -> None:
    resource = pipeline(PODS)
    sums = {"bytesDone": 50_000_000, "bytesTotal": 200_000_000, "bytesPerSecond": 10_000_000}
    loader = {"pod": "loading", "phase": "transferring", **sums, "etaSeconds": 15}
    resource["status"]["progress"] = {"time": "2026-05-04T11:59:58Z", **sums, "etaSeconds": 15, "loaders": [loader]}
    text = "\n".join(lines(view(resource, PODS, NOW)))
    assert "  loading  25% of 200.0 MB, 10.0 MB/s, 15 s left" in text
    [row] = [line.split() for line in text.splitlines() if line.startswith("  loading  loading")]
    assert " ".join(row) == "loading loading 1 min 40.0 s 25% of 200.0 MB 10.0 MB/s 15 s 1 2"
    resource["status"]["progress"]["loaders"] = [{**loader, "bytesTotal": 0, "phase": "waiting", "stalledSeconds": 70}]
    [row] = [line.split() for line in lines(view(resource, PODS, NOW)) if line.startswith("  loading  loading")]
    assert " ".join(row[5:]) == "s waiting 10.0 MB/s nothing for 70 s 1 2"


def test_a_narrow_terminal_cuts_nothing() -> None:
    narrow = Console(file=io.StringIO(), width=80, highlight=False)
    narrow.print(*shown(seen([pod("a-name-of-a-pod-that-is-rather-long-x7k2p", ended(0, LOADED))]), NOW), sep="\n")
    printed = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in printed
    assert "200.1 MB  80.0 MB/s" in printed


def test_pods_are_listed_newest_first_and_failures_with_what_to_do() -> None:
    text = lines(seen())
    phases = [words[0] for words in map(str.split, text) if len(words) > 1 and words[0] == words[1]]
    assert phases == ["loading", "failed", "loaded", "missed"]
    place = text.index("  NotFound in pod failed, 1 min ago")
    assert text[place + 1 : place + 3] == ["    no key a.ckpt", "    Check `key`"]


def test_a_check_tells_the_version_that_pods_get() -> None:
    resource = pipeline([])
    check = {"time": "2026-05-04T11:58:00Z", "uri": "s3://models/a.ckpt", "version": "etag-1"}
    resource["status"]["check"] = check
    assert "  check  pods get version etag-1, as of 2 min ago" in lines(view(resource, [], NOW))
    resource["status"]["check"] = {**check, "reason": "NotFound", "message": "no key", "remedy": "Check it"}
    text = "\n".join(lines(view(resource, [], NOW)))
    assert "failed 2 min ago: NotFound: no key" in text
    assert "pods get version etag-1" in text


def test_a_generation_that_nobody_has_seen_is_said_so() -> None:
    resource = {**pipeline([]), "status": {}}
    assert "is it running?" in lines(view(resource, [], NOW))[1]


def test_pods_that_may_not_be_listed_are_counted_from_the_status() -> None:
    found = view(pipeline(PODS), None, NOW)
    assert "1 loading, 1 loaded, 1 failed, 1 missed; you may not list them" in "\n".join(lines(found))
    assert found.to_json()["pods"] is None


def test_json_has_the_status_and_every_pod() -> None:
    found = json.loads(json.dumps(seen().to_json()))
    assert found["status"]["pods"]["failed"] == 1
    loaded = next(each for each in found["pods"] if each["name"] == "loaded")
    assert loaded["loader"]["fetchedBytes"] == 200_100_000
    assert loaded["generation"] == 2


def test_time_that_passes_is_no_news_and_a_phase_is() -> None:
    later = view(pipeline(PODS), PODS, NOW.replace(minute=30))
    assert not later.differs(seen())
    assert seen([PODS[0]]).differs(seen())


SAID: list[tuple[str, type[ClusterError], str]] = [
    ('Error from server (NotFound): pods "a" not found', NotThereError, 'pods "a" not found'),
    ('Error from server (Forbidden): pods is forbidden: User "dev" cannot', NotAllowedError, "pods is forbidden"),
    ('error: the server doesn\'t have a resource type "ckpt"', NotThereError, "resource type"),
    ("E1128 10:02:53.147220   23107 memcache.go:265] noise\nUnable to connect to the server", ClusterError, "Unable"),
]


@pytest.mark.parametrize(("said", "kind", "part"), SAID)
def test_kubectls_words_become_an_error(said: str, kind: type[ClusterError], part: str) -> None:
    error = error_of(said)
    assert type(error) is kind
    assert str(error).startswith(part) or part in str(error)
    assert "memcache" not in str(error)


def test_uploads_say_what_was_sent_what_fails_and_what_was_left() -> None:
    trouble = {"reason": "AccessDenied", "message": "the service answered 403", "remedy": "Allow s3:PutObject"}
    numbers = {"uploaded": 2, "bytes": 5_000_000, "waiting": 1, "failures": 4}
    told = {
        "summary": "2 sent, 1 waiting, failing, some unsent",
        "pods": 1,
        **numbers,
        "last": {"pod": "a", "name": "net_cp=E2", "time": "2026-05-04T11:58:00Z"},
        "senders": [
            {"pod": "a", "created": "2026-05-04T11:00:00Z", "state": "failing", "restarts": 0, **numbers, **trouble}
        ],
        "unsent": [{"pod": "b", "time": "2026-05-04T11:50:00Z", "waiting": 1, **trouble}],
    }
    Status.model_validate({"uploads": told})
    resource = pipeline([])
    found = view({**resource, "status": {**resource["status"], "uploads": told}}, [], NOW)
    text = [" ".join(line.split()) for line in lines(found)]
    start = text.index("uploads 2 sent, 1 waiting, failing, some unsent, 5.0 MB")
    assert text[start + 1 : start + 6] == [
        "sent last net_cp=E2 by pod a, 2 min ago",
        "failing pod a: AccessDenied: the service answered 403",
        "do Allow s3:PutObject",
        "unsent pod b, 10 min ago: the service answered 403",
        "do Allow s3:PutObject",
    ]
