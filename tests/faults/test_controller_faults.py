"""The controller's process against the real API server, through a proxy that fails: its status converges."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx2
import pytest
from lightkube import AsyncClient, KubeConfig

from crds import NAME as CRD
from crds import installed
from faults.fault_proxy import CUT_AFTER, CUT_BEFORE, HANG, FaultProxy, Redirect, Request
from faults.installation import NAME, Installation, Tenant
from faults.operator_processes import Haste, Operator, eventually, running
from preheat_operator.controller import Controller
from preheat_operator.settings import Settings

pytestmark = pytest.mark.cluster
HASTE = Haste(silence=6, backoffs=(0.2, 0.5, 1, 1, 1, 1, 1))
LOADED = {"outcome": "loaded", "source": {"uri": "https://models.example.org/a.ckpt", "version": "etag:1"}}
NOT_FOUND = {"outcome": "failed", "reason": "NotFound", "message": "404 for a.ckpt", "remedy": "Check the URL"}


@pytest.fixture(scope="module")
def controller(installation, tmp_path_factory) -> Iterator[tuple[FaultProxy, Operator]]:
    log = tmp_path_factory.mktemp("controller") / "log"
    settings = {**installation.settings, "check": "false"}  # no node runs a Job here
    with (
        installation.proxied("controller") as (proxy, kubeconfig),
        running("controller", kubeconfig, log, HASTE, **settings) as process,
    ):
        yield proxy, process


@pytest.fixture
def proxy(controller) -> Iterator[FaultProxy]:
    """Between the controller and the API server; all is well when a test begins, and afterwards."""
    yield controller[0]
    controller[0].rule = lambda _: None
    controller[0].open()


@pytest.fixture
def observed(controller, tenant) -> Tenant:
    """A tenant with a pipeline and a pod that loads."""
    tenant.pipeline()
    tenant.injected_pod("a")
    eventually(lambda: tenant.counts().get("loading") == 1)
    return tenant


@pytest.mark.parametrize("fault", [FaultProxy.refuse, FaultProxy.hole], ids=["refused", "swallowed"])
def test_what_happened_while_the_api_server_was_away_is_noticed(controller, proxy, observed, fault) -> None:
    fault(proxy)
    observed.report("a", 11, NOT_FOUND)
    observed.pipeline("new")
    observed.injected_pod("b", "new")
    observed.delete_pod("b")
    proxy.open()
    eventually(lambda: observed.condition().get("reason") == "NotFound")
    eventually(lambda: observed.counts("new").get("matched") == 0)
    eventually(lambda: len(observed.events("NotFound")) == 2)
    assert controller[1].ready()


def test_a_watch_that_went_silent_is_given_up(controller, proxy, observed) -> None:
    """By default after 70 s; by then no connection is kept that a request could hang on for its 10 s."""
    proxy.freeze()
    observed.report("a", 11, NOT_FOUND)
    eventually(lambda: observed.condition().get("reason") == "NotFound", HASTE.silence + 12)


def test_what_was_deleted_while_the_watch_was_lost_for_good_is_counted_no_more(controller, proxy, observed) -> None:
    """The API server says 410, as after its restart: watches are taken up at a version that it has long forgotten.

    (Of pods alone forgotten, the last pod of a pipeline is missed for as long as until the next resync, 300 s.)
    """

    def of_long_ago(request: Request) -> Any:
        if not request.watches:
            return None
        return Redirect(re.sub(r"resourceVersion=\d+", "resourceVersion=1", request.target))

    proxy.refuse()
    observed.delete_pod("a")
    before = len(proxy.requests)
    proxy.rule = of_long_ago
    proxy.open()
    kinds = {"/api/v1/pods", "/apis/preheat.dev/v1alpha1/checkpointpipelines"}
    eventually(lambda: kinds <= {each.path for each in proxy.requests[before:] if each.status and not each.watches})
    proxy.rule = lambda _: None
    eventually(lambda: observed.counts().get("matched") == 0)
    assert controller[1].ready()


def test_it_ends_in_time_though_its_writes_are_swallowed(installation, proxy, tenant, tmp_path) -> None:
    proxy.hole()
    settings = {**installation.settings, "check": "false"}
    with (
        installation.proxied("controller") as (other, kubeconfig),
        running("controller", kubeconfig, tmp_path / "log", HASTE, **settings) as process,
    ):
        other.rule = lambda request: HANG if request.writes else None
        tenant.pipeline()
        eventually(lambda: other.seen("PUT", tenant.namespace))
        began = time.monotonic()
        assert process.end(signal.SIGTERM) == 0, process.said()
        assert time.monotonic() - began < 10


def test_fights_over_a_status_are_slow_and_won_in_the_end(controller, proxy, observed) -> None:
    before, ends = len(proxy.seen("PUT", observed.namespace)), time.monotonic() + 3
    foreign = 0
    while time.monotonic() < ends:
        wrong = {"pods": {"loaded": 99}, "source": {"uri": "s3://x/y"}, "conditions": []}
        observed.api.patch(f"{observed.pipelines}/finetune/status", {"status": wrong})
        foreign += 1
    eventually(lambda: observed.counts().get("loaded") == 0)
    assert len(proxy.seen("PUT", observed.namespace)) - before <= 10 < foreign


def test_two_at_once_write_no_more_than_there_is_to_say(installation, controller, proxy, observed, tmp_path) -> None:
    settings = {**installation.settings, "check": "false"}
    with (
        installation.proxied("controller") as (other, kubeconfig),
        running("controller", kubeconfig, tmp_path / "log", Haste(resync=2), **settings),
    ):
        for number in range(5):
            observed.injected_pod(f"p{number}")
            observed.report(f"p{number}", 0, {"outcome": "loaded", "source": {"uri": "https://x", "version": "1"}})
        eventually(lambda: observed.counts().get("loaded") == 5)
        written = [each for each in (*proxy.requests, *other.requests) if each.method == "PUT" and each.status == 200]
        settled = observed.found()["metadata"]["resourceVersion"]
        asked = len(other.requests)
        eventually(lambda: len(other.requests) > asked + 4)  # the next resync
        assert observed.found()["metadata"]["resourceVersion"] == settled
    assert len({each.time for each in written if observed.namespace in each.target}) <= 12
    assert len([each for each in observed.events("CheckpointLoaded") if each["involvedObject"]["name"] == "p0"]) == 1


LARGE = [f"encoder.{number:03}." + "x" * 490 for number in range(250)]


def test_a_large_pipeline_has_a_status_too(controller, tenant) -> None:
    stages = [{"http": {"url": "https://models.example.org/a.ckpt"}}, {"weightsOnly": {}}]
    tenant.pipeline("large", {"stages": [*stages, {"freezing": {"layers": LARGE[:150]}}]})
    tenant.pipeline("too-large", {"stages": [*stages, {"freezing": {"layers": LARGE}}]})
    tenant.pipeline("annotated", annotations={"note": "x" * 250_000})
    eventually(lambda: tenant.condition("large").get("reason") == "Accepted")
    eventually(lambda: tenant.condition("too-large").get("reason") == "InvalidPipeline")
    eventually(lambda: tenant.condition("annotated").get("reason") == "Accepted")


def test_a_pipeline_deleted_while_its_pods_load_is_forgotten(controller, proxy, observed) -> None:
    observed.delete()
    observed.report("a", 11, NOT_FOUND)
    observed.pipeline("later")
    eventually(lambda: observed.condition("later"))
    assert not observed.events("NotFound")
    observed.pipeline()  # the same name, another pipeline: the old pod's failure is none of its own
    eventually(lambda: observed.counts().get("matched") == 1)
    assert observed.condition()["reason"] == "Accepted"


RIGHTS = {
    "write statuses": ("checkpointpipelines/status", "update"),  # before anybody else writes what there is to write
    "list pipelines": ("checkpointpipelines", "list"),
    "watch pipelines": ("checkpointpipelines", "watch"),
    "get pipelines": ("checkpointpipelines", "get"),
    "list pods": ("pods", "list"),
    "watch pods": ("pods", "watch"),
    "create Events": ("events", "create"),
}


def test_without_one_of_its_rights_it_says_which_and_asks_slowly(installation, proxy, tenant, tmp_path) -> None:
    """One process for each right that is taken away, all at once; then it is given back."""
    proxy.hole()
    tenant.pipeline()
    tenant.injected_pod("a")
    tenant.report("a", 11, NOT_FOUND)
    first, *others = RIGHTS
    with ThreadPoolExecutor(len(RIGHTS)) as pool:
        alone = pool.submit(_lacking, installation, first, tmp_path)
        eventually(lambda: (tmp_path / first).exists() and "cannot update" in (tmp_path / first).read_text())
        list(pool.map(lambda each: _lacking(installation, each, tmp_path), others))
        alone.result()
    assert tenant.condition()["reason"] == "NotFound"
    assert len(tenant.events("NotFound")) == 2


def _lacking(installation: Installation, right: str, folder: Path) -> None:
    resource, verb = RIGHTS[right]
    settings = {**installation.settings, "check": "false"}
    with (
        account(installation, right.replace(" ", "-").lower(), resource, verb) as (token, give_back),
        installation.proxied("controller", token) as (proxy, kubeconfig),
    ):
        process, began = Operator("controller", kubeconfig, folder / right, HASTE, **settings), time.monotonic()
        try:
            refused = re.compile(f'cannot {verb} resource \\\\*"{resource}\\\\*"')
            eventually(
                lambda: refused.search(process.said()), what=lambda: f"{right}: {process.said()} {proxy.requests}"
            )
            eventually(lambda: time.monotonic() - began > 5)
            assert len(proxy.requests) < 15 * (time.monotonic() - began), proxy.requests
            give_back()
            if verb in ("create", "update"):  # nothing is left to be written once another has done it
                return
            eventually(
                lambda: _works(proxy, resource, verb) or not process.process.is_alive(),
                what=lambda: f"{right}: {process.said()} {proxy.requests}",
            )
            if process.process.is_alive():
                return
            assert process.process.exitcode != 0
        finally:
            process.end()
        with running("controller", kubeconfig, folder / right, HASTE, **settings):
            eventually(lambda: _works(proxy, resource, verb))


def _works(proxy: FaultProxy, resource: str, verb: str) -> bool:
    return any(each.status == 200 and each.watches == (verb == "watch") for each in proxy.seen("GET", resource))


@contextmanager
def account(
    installation: Installation, name: str, resource: str, verb: str
) -> Iterator[tuple[str, Callable[[], None]]]:
    """A token of an account with all the controller's rights but one, and what gives it that one, too."""
    cluster, namespace, name = installation.cluster, installation.namespace, f"faults-without-{name}"
    api, group = installation.api, "/apis/rbac.authorization.k8s.io/v1"
    rules = api.get(f"{group}/clusterroles/{NAME}-controller")["rules"]
    verbs = [[each for each in rule["verbs"] if resource not in rule["resources"] or each != verb] for rule in rules]
    fewer = [{**rule, "verbs": left} for rule, left in zip(rules, verbs, strict=True) if left]
    api.post(f"{group}/clusterroles", {"metadata": {"name": name}, "rules": fewer})
    cluster.kubectl("create", "serviceaccount", name, "--namespace", namespace)
    subject = f"--serviceaccount={namespace}:{name}"
    cluster.kubectl("create", "clusterrolebinding", name, f"--clusterrole={name}", subject)
    try:
        yield (
            cluster.kubectl("create", "token", name, "--namespace", namespace).strip(),
            lambda: api.patch(f"{group}/clusterroles/{name}", {"rules": rules}) and None,
        )
    finally:
        cluster.kubectl("delete", "clusterrole,clusterrolebinding", name)


async def test_each_write_may_be_the_last_of_a_process(installation, proxy, tenant) -> None:
    """Cut before the API server heard of it, or after, with all that would have followed; then another one begins."""
    proxy.hole()
    with installation.proxied("controller") as (other, kubeconfig):
        config = KubeConfig.from_file(kubeconfig).get()
        settings = Settings(installation.namespace, "loader:1", check=False)

        async def work_off(name: str) -> None:
            async with AsyncClient(config) as client:
                with suppress(httpx2.HTTPError):
                    await Controller(client, settings).refresh((tenant.namespace, name))

        scene(tenant, "undisturbed")
        await work_off("undisturbed")
        writes = sum(each.writes for each in other.requests)
        assert writes == 5  # the status, and Events of a failure (on both objects), a success and a first read
        for number in range(writes):
            for cut in (CUT_BEFORE, CUT_AFTER):
                name = f"cut-{number}-{'before' if cut is CUT_BEFORE else 'after'}"
                scene(tenant, name)
                other.rule = last_write(number, cut)
                await work_off(name)
                other.rule = lambda _: None
                await work_off(name)
                assert tenant.counts(name) == tenant.counts("undisturbed")
                assert tenant.condition(name)["reason"] == tenant.condition("undisturbed")["reason"]
                told = [each["reason"] for each in tenant.events_about(name)]
                assert sorted(told) == ["CheckpointLoaded", "NotFound", "NotFound", "SourceRead"]


def scene(tenant: Tenant, name: str) -> None:
    """A pipeline with a pod that failed and one that has loaded since."""
    tenant.pipeline(name)
    for pod, end in {f"{name}-a": (11, NOT_FOUND), f"{name}-b": (0, LOADED)}.items():
        tenant.injected_pod(pod, name)
        tenant.report(pod, *end)


def last_write(number: int, cut: object) -> Callable[[Request], object]:
    """From the write of this number on nothing comes through any more."""
    left = [number]

    def rule(request: Request) -> object:
        left[0] -= request.writes
        if left[0] >= 0:
            return None
        return cut if request.writes and left[0] == -1 else CUT_BEFORE

    return rule


def test_without_the_resource_it_ends_once_and_waits_for_it(installation, cluster, proxy, observed, tmp_path) -> None:
    """Somebody deletes the CustomResourceDefinition, and with it every pipeline."""
    proxy.hole()
    settings = {**installation.settings, "check": "false"}
    with installation.proxied("controller") as (_, kubeconfig):
        process = Operator("controller", kubeconfig, tmp_path / "log", HASTE, **settings)
        try:
            eventually(process.ready)
            cluster.kubectl("delete", CRD, "--timeout=60s")
            eventually(lambda: not process.process.is_alive())
            assert process.process.exitcode == 1
            assert process.said().splitlines()[-1].startswith("the watch cannot go on"), process.said()
            again = Operator("controller", kubeconfig, tmp_path / "log", HASTE, **settings)
            try:
                eventually(lambda: "crds.install=true" in again.get("/readyz"))
                with installed(cluster):
                    eventually(again.ready)
                    observed.pipeline("later")
                    eventually(lambda: observed.condition("later"))
            finally:
                again.end()
        finally:
            process.end()
