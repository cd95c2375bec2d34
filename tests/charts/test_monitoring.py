"""Alerts and dashboard: every expression can be parsed, and asks for metrics and labels that the processes have."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import promql_parser
import pytest
from prometheus_client import metrics as prometheus

from preheat_operator import metrics
from preheat_operator.observation import Phase
from preheat_operator.uploads import STATES

ROOT = Path(__file__).parents[2]
OPERATIONS = ROOT / "docs" / "operations.md"
RULES = ("--set", "prometheusRule.enabled=true", "--show-only", "templates/monitoring/prometheusrule.yaml")
VALUES = {
    ("preheat_admission_reviews_total", "result"): set(metrics.RESULTS),
    ("preheat_admission_seconds_bucket", "result"): set(metrics.RESULTS),
    ("preheat_pods", "phase"): set(get_args(Phase)),
    ("preheat_upload_pods", "state"): set(STATES),
}
#: What the scrape adds to every series.
TARGET = {"namespace", "pod"}
PROCESS = {"process_resident_memory_bytes", "process_cpu_seconds_total"}


def series() -> Iterator[tuple[str, set[str]]]:
    """Name and labels of everything that the two processes expose by themselves."""
    for metric in vars(metrics).values():
        if not isinstance(metric, prometheus.MetricWrapperBase):
            continue
        [family] = metric.describe()
        labels = set(metric._labelnames)
        if family.type == "histogram":
            yield f"{family.name}_bucket", {"le", *labels}
            yield f"{family.name}_count", labels
            yield f"{family.name}_sum", labels
        else:
            yield family.name + ("_total" if family.type == "counter" else ""), labels


KNOWN = dict(series()) | {name: set() for name in PROCESS}


def selectors(expression: Any) -> Iterator[promql_parser.VectorSelector]:
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        if (inner := getattr(expression, name, None)) is not None and not isinstance(inner, str):
            yield from selectors(inner)
    args = getattr(expression, "args", None)
    for each in getattr(args, "args", args) or ():
        yield from selectors(each)


def grouped(expression: str) -> set[str]:
    return {name.strip() for names in re.findall(r"\b(?:by|on) \(([^)]*)\)", expression) for name in names.split(",")}


def check(expression: str) -> None:
    """Fails on an expression that can never have a result."""
    found = list(selectors(promql_parser.parse(expression.replace("$__rate_interval", "5m"))))
    assert found, expression
    assert len(found) == len(re.findall(r"\b(?:preheat|process)_\w+", expression)), (
        f"not all was looked at: {expression}"
    )
    for selector in found:
        assert selector.name in KNOWN, f"no process has {selector.name}: {expression}"
        for matcher in selector.matchers.matchers:
            assert matcher.name in KNOWN[selector.name] | TARGET, f"{selector.name} has no label {matcher.name}"
            allowed = VALUES.get((selector.name, matcher.name))
            assert allowed is None or matcher.value in allowed, f"{matcher.name} is never {matcher.value}"
    every_label = set().union(*(KNOWN[selector.name] for selector in found))
    assert grouped(expression) <= every_label | TARGET, expression


@pytest.fixture(scope="module")
def alerts(render) -> list[dict[str, Any]]:
    [rule] = render(*RULES)
    [group] = rule["spec"]["groups"]
    return list(group["rules"])


@pytest.fixture(scope="module")
def dashboard(render) -> dict[str, Any]:
    words = ("--set", "dashboard.enabled=true", "--show-only", "templates/monitoring/dashboard.yaml")
    [config] = render(*words)
    assert config["metadata"]["labels"]["grafana_dashboard"] == "1"
    found: dict[str, Any] = json.loads(config["data"]["preheat.json"])
    return found


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ('sum(preheat_pod{phase="missed"})', "no process has preheat_pod"),
        ('sum(preheat_pods{phase="lost"})', "phase is never lost"),
        ('rate(preheat_status_writes_total{result="a"}[5m])', "has no label result"),
        ("sum by (reason) (preheat_pods)", "by .reason"),
    ],
)
def test_the_check_sees_what_is_wrong(wrong: str, told: str) -> None:
    with pytest.raises(AssertionError, match=told):
        check(wrong)


def test_every_alert_asks_for_what_there_is_and_tells_what_to_do(alerts) -> None:
    sections = {title.lower() for title in re.findall(r"^### (\w+)$", OPERATIONS.read_text(), re.MULTILINE)}
    for alert in alerts:
        check(alert["expr"])
        assert alert["labels"]["severity"] in ("critical", "warning")
        assert all(alert["annotations"][part] for part in ("summary", "description"))
        file, _, anchor = alert["annotations"]["runbook_url"].partition("#")
        assert (ROOT / file) == OPERATIONS
        assert anchor in sections, f"{OPERATIONS.name} has no section {alert['alert']}"
    assert {alert["alert"].lower() for alert in alerts} == {each for each in sections if each.startswith("preheat")}


def test_what_an_alert_says_names_only_labels_that_its_result_has(alerts) -> None:
    for alert in alerts:
        text = " ".join(alert["annotations"].values())
        assert set(re.findall(r"\$labels\.(\w+)", text)) <= grouped(alert["expr"]), alert["alert"]


def test_an_alert_can_be_left_out_by_its_name_and_only_by_that(render, helm) -> None:
    [rule] = render(*RULES, "--set", "prometheusRule.disabled={PreheatAdmissionSlow}")
    assert "PreheatAdmissionSlow" not in {each["alert"] for each in rule["spec"]["groups"][0]["rules"]}
    chart = ROOT / "charts" / "preheat"
    refused = helm("template", "preheat", chart, *RULES, "--set", "prometheusRule.disabled={Slow}").stderr
    assert "there is no alert Slow; there are: PreheatWebhookDown" in refused


def test_where_a_policy_injects_nothing_is_said_about_a_webhook(render) -> None:
    [rule] = render(*RULES, "--set", "injection=policy", "--kube-version", "1.36")
    left = {alert["alert"] for alert in rule["spec"]["groups"][0]["rules"]}
    assert left == {
        "PreheatLoadersFailing",
        "PreheatPodsWithoutLoader",
        "PreheatUploadsFailing",
        "PreheatCheckpointsUnsent",
        "PreheatControllerDown",
    }


def test_every_panel_asks_for_what_there_is(dashboard) -> None:
    panels = [panel for panel in dashboard["panels"] if panel["type"] != "row"]
    for panel in panels:
        assert panel["title"]
        assert panel["description"]
        for target in panel["targets"]:
            check(target["expr"])
            assert '$namespace"' in target["expr"]
            assert set(re.findall(r"{{(\w+)}}", target["legendFormat"])) <= grouped(target["expr"]) | TARGET
    assert len({panel["id"] for panel in dashboard["panels"]}) == len(dashboard["panels"])


def test_every_metric_of_ours_is_on_the_dashboard_and_in_the_documentation(dashboard) -> None:
    shown = " ".join(t["expr"] for panel in dashboard["panels"] for t in panel.get("targets", ()))
    documented = set(re.findall(r"^\| `(preheat_\w+)`", OPERATIONS.read_text(), re.MULTILINE))
    names = {re.sub(r"_(bucket|count|sum)$", "", name) for name in KNOWN if name.startswith("preheat_")}
    assert documented == names
    assert {name for name in names if name not in shown} == set()


def test_panels_do_not_lie_on_each_other(dashboard) -> None:
    cells: set[tuple[int, int]] = set()
    for place in (panel["gridPos"] for panel in dashboard["panels"]):
        taken = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in taken) < 24
        assert not cells & taken
        cells |= taken


def test_nothing_of_it_is_there_unless_asked_for(render) -> None:
    assert not [d for d in render() if d["apiVersion"].startswith("monitoring") or d["kind"] == "ConfigMap"]


def test_the_service_monitor_finds_both_processes(render) -> None:
    documents = render("--set", "serviceMonitor.enabled=true")
    [monitor] = [d for d in documents if d["kind"] == "ServiceMonitor"]
    [service] = [d for d in documents if d["kind"] == "Service" and d["spec"].get("clusterIP") == "None"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
    [endpoint], [port] = monitor["spec"]["endpoints"], service["spec"]["ports"]
    assert endpoint["port"] == port["name"]
    for deployment in (d for d in documents if d["kind"] == "Deployment"):
        template = deployment["spec"]["template"]
        assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports["health"] == port["port"]
