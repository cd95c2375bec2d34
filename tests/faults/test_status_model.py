"""Anything may happen in any order, calls fail, processes die: when it is quiet, status and admission are right.

The controller works on an API server in memory; the webhook's cache hears of it as by a watch, and may miss things.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine
from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar

import httpx2
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from faults.fake_api import Call, FakeApi, When
from preheat.errors import CheckpointError
from preheat_operator.admission import admit
from preheat_operator.cache import PipelineCache
from preheat_operator.controller import Controller
from preheat_operator.observation import observe
from preheat_operator.settings import Settings
from preheat_operator.status import differs, pod_counts, wanted_status
from preheat_operator.worklist import Worklist

SETTINGS = Settings("preheat-system", "loader:1")
SPACE = "team-a"
GOOD = {"stages": [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]}
OTHER = {"stages": [{"http": {"url": "https://models.example.org/b.ckpt"}}, {"weightsOnly": {}}], "refreshSeconds": 300}
UNUSABLE: dict[str, Any] = {"stages": [{"weightsOnly": {}}]}
SOURCE = {"uri": "https://models.example.org/a.ckpt", "version": "etag:1", "tensors": 4}
MESSAGES = [
    (0, {"outcome": "loaded", "source": SOURCE}),
    (0, {"outcome": "continued", "reason": "NotFound", "message": "404"}),
    (11, {"outcome": "failed", "reason": "NotFound", "message": "404", "remedy": "Check the URL"}),
    (11, {"outcome": "failed", "reason": "Truncated", "message": "the file ends early"}),
    (137, None),
]
#: Making a failure smaller takes minutes: whoever looks into one adds Phase.shrink.
FAST = (Phase.explicit, Phase.reuse, Phase.generate)
names = st.sampled_from(["finetune", "finetune", "finetune", "pretrain"])
pods = st.sampled_from(["a", "b", "c"])


class Quiet(RuleBasedStateMachine):
    """Rules are what others do and what fails; every one of them ends in a quiet that is looked at now and then."""

    loop: ClassVar[asyncio.AbstractEventLoop]

    def __init__(self) -> None:
        super().__init__()
        self.api = FakeApi()
        self.now = datetime(2026, 5, 4, 12, tzinfo=UTC)
        self.down = False
        self.start()

    def teardown(self) -> None:
        self.settle()
        self.do(self.controller.worklist.close())

    def do(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(coroutine)

    # What others do.

    @initialize()
    def begin(self) -> None:
        self.write_pipeline("finetune", GOOD, heard=True)

    @rule(name=names, spec=st.sampled_from([GOOD, GOOD, OTHER, UNUSABLE]), heard=st.booleans())
    def write_pipeline(self, name: str, spec: dict[str, Any], heard: bool) -> None:
        before = self.api.objects.get(("CheckpointPipeline", SPACE, name), {})
        self.api.put("CheckpointPipeline", {**before, "metadata": self._metadata(name, before), "spec": spec})
        self._heard(name, heard)

    @rule(name=names, heard=st.booleans())
    def delete_pipeline(self, name: str, heard: bool) -> None:
        self.api.delete("CheckpointPipeline", SPACE, name)
        self._heard(name, heard)

    @rule(name=names)
    def write_a_foreign_status(self, name: str) -> None:
        if found := self.api.objects.get(("CheckpointPipeline", SPACE, name)):
            self.api.put("CheckpointPipeline", {**found, "status": {"pods": {"loaded": 99}, "conditions": []}})
            self._heard(name, True)

    @rule(pod=pods, name=names, heard=st.booleans())
    def create_pod(self, pod: str, name: str, heard: bool) -> None:
        """The API server asks the webhook, as it would: it answers of the cache."""
        document = _pod(pod, name)
        entry = self.cache.get(SPACE, name)
        try:
            admitted = admit(document, SPACE, entry, SETTINGS) if entry else None
        except CheckpointError:
            admitted = None
        if admitted and ("Pod", SPACE, pod) not in self.api.objects:
            self.api.put("Pod", {**admitted, "metadata": {**admitted["metadata"], "creationTimestamp": self._time()}})
            self._heard(name, heard)

    @rule(pod=pods, end=st.sampled_from(MESSAGES), heard=st.booleans())
    def loader_ends(self, pod: str, end: tuple[int, Any], heard: bool) -> None:
        if found := self.api.objects.get(("Pod", SPACE, pod)):
            found["status"] = {"initContainerStatuses": [_ended(*end, self._time())]}
            self._heard(found["metadata"]["labels"]["preheat.dev/pipeline"], heard)

    @rule(pod=pods, heard=st.booleans())
    def delete_pod(self, pod: str, heard: bool) -> None:
        if found := self.api.objects.pop(("Pod", SPACE, pod), None):
            self._heard(found["metadata"]["labels"]["preheat.dev/pipeline"], heard)

    @rule(end=st.sampled_from(MESSAGES))
    def checks_end(self, end: tuple[int, Any]) -> None:
        for job in self.api.kind("Job"):
            name, labels = job["metadata"]["name"], {**job["metadata"]["labels"], "job-name": job["metadata"]["name"]}
            if ("Pod", SPACE, f"{name}-x") not in self.api.objects:
                metadata = {"namespace": SPACE, "name": f"{name}-x", "labels": labels}
                status = {"containerStatuses": [_ended(*end, self._time())]}
                spec = {"containers": [{"name": "preheat-loader"}]}
                self.api.put("Pod", {"metadata": metadata, "spec": spec, "status": status})
                self._heard(job["metadata"]["labels"]["preheat.dev/check"], True)

    # What fails.

    @rule(chosen=st.integers(0, 30), when=st.sampled_from(["before", "after"]))
    def cut(self, chosen: int, when: When) -> None:
        """From one of the next calls on nothing reaches the API server, or no answer comes back."""
        left = [chosen]

        def fail(call: Call, at: When) -> None:
            left[0] -= at == when
            if left[0] < 0 and at == when:
                raise httpx2.ReadError("cut")

        self.api.fail, self.down = fail, True

    @rule()
    def heal(self) -> None:
        self.api.fail, self.down = (lambda _call, _when: None), False

    @rule()
    def start(self) -> None:
        """The processes are killed and started: nothing of them is left."""
        if hasattr(self, "controller"):
            self.do(self.controller.worklist.close())
        self.controller = Controller(self.api, SETTINGS, lambda: self.now)  # type: ignore[arg-type]
        self.controller.worklist = Worklist(self.controller.refresh, pause=0, delays=(0, 0))
        self.cache = PipelineCache(http=None)  # type: ignore[arg-type]  # it is told, and asks nobody
        self._list_anew()

    @rule(minutes=st.integers(-20, 60))
    def clock_moves(self, minutes: int) -> None:
        self.now += timedelta(minutes=minutes)

    @rule()
    def tick(self) -> None:
        self.do(self._work())

    @rule()
    def settle(self) -> None:
        """All is well for a while: everything is listed anew, as after every gap, and worked off."""
        self.heal()
        self._list_anew()
        for _ in range(3):  # the end of a check is seen first, and another one, if it is due by now, begins then
            for found in self.api.kind("CheckpointPipeline"):
                self.do(self._changed(found["metadata"]["name"]))
            self.do(self._work())
        written = self.api.calls.count(("replace", "Status"))
        for found in self.api.kind("CheckpointPipeline"):
            self._is_right(found)
            self.do(self._changed(found["metadata"]["name"]))
        self.do(self._work())
        assert self.api.calls.count(("replace", "Status")) == written, "written again without need"
        assert self.cache.names(SPACE) == [each["metadata"]["name"] for each in self.api.kind("CheckpointPipeline")]

    def _is_right(self, pipeline: dict[str, Any]) -> None:
        name, status = pipeline["metadata"]["name"], pipeline["status"]
        labelled = [each for each in self.api.kind("Pod") if _label(each) == name]
        reports = [observe(each) for each in labelled]
        conditions = {each["type"]: each for each in status["conditions"]}
        assert status["observedGeneration"] == pipeline["metadata"]["generation"]
        assert status["pods"] == pod_counts(reports)
        unusable = pipeline["spec"] == UNUSABLE
        assert (conditions["Ready"]["reason"] == "InvalidPipeline") == unusable
        assert (conditions["Stalled"]["status"] == "True") == unusable
        checking = conditions["Reconciling"]["reason"] == "Checking"
        problem = conditions["Stalled"]["message"] if unusable else None
        assert not differs(wanted_status(pipeline, reports, self.now, problem, checking=checking), status)
        checks = [each for each in self.api.kind("Job") if each["metadata"]["labels"]["preheat.dev/check"] == name]
        assert len({each["metadata"]["name"] for each in checks}) == len(checks)
        entry = self.cache.get(SPACE, name)
        assert entry
        try:
            admitted = admit(_pod("x", name), SPACE, entry, SETTINGS)
        except CheckpointError:
            assert unusable
        else:
            assert not unusable
            assert any(each["name"] == "preheat-loader" for each in admitted["spec"]["initContainers"])

    async def _work(self) -> None:
        async with asyncio.timeout(30):
            while len(self.controller.worklist):
                await asyncio.sleep(0)

    def _heard(self, name: str, heard: bool) -> None:
        """An event reaches both processes, unless the watch was lost."""
        if not heard or self.down:
            return
        found = self.api.objects.get(("CheckpointPipeline", SPACE, name))
        version = {"resourceVersion": "1"}
        gone = {"metadata": {"namespace": SPACE, "name": name, **version}}
        self.cache._apply({"type": "MODIFIED", "object": found} if found else {"type": "DELETED", "object": gone})
        self.do(self._changed(name))

    async def _changed(self, name: str) -> None:
        self.controller.changed(SPACE, name)

    def _list_anew(self) -> None:
        """What `PipelineCache` does with a list."""
        found = self.api.kind("CheckpointPipeline")
        self.cache._replace(self.cache._kept(json.loads(json.dumps(found))))

    def _metadata(self, name: str, before: dict[str, Any]) -> dict[str, Any]:
        return {**before.get("metadata", {}), "namespace": SPACE, "name": name}

    def _time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")


def _pod(name: str, pipeline: str) -> dict[str, Any]:
    metadata = {"namespace": SPACE, "name": name, "labels": {"preheat.dev/pipeline": pipeline}}
    return {"metadata": metadata, "spec": {"containers": [{"name": "train", "image": "t"}]}}


def _label(pod: dict[str, Any]) -> str | None:
    label: str | None = pod["metadata"]["labels"].get("preheat.dev/pipeline")
    return label


def _ended(code: int, message: Any, time: str) -> dict[str, Any]:
    ended = {"exitCode": code, "message": json.dumps(message), "finishedAt": time}
    return {"name": "preheat-loader", "restartCount": 0, "state": {"terminated": ended}}


def test_when_it_is_quiet_status_and_admission_are_right() -> None:
    with closing(asyncio.new_event_loop()) as Quiet.loop:
        run_state_machine_as_test(Quiet, settings=settings(max_examples=40, stateful_step_count=40, phases=FAST))  # type: ignore[arg-type]
