"""Pods of every shape, made up by hypothesis; not all of them would an API server accept."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from preheat_operator.quantity import parse_quantity

names = st.text("abcdefgh-", min_size=1, max_size=8)
cpus = st.sampled_from(["0", "10m", "250m", "0.5", "1", "2", "64"])
memories = st.sampled_from(["0", "1Mi", "64Mi", "96M", "1Gi", "1.5Gi", "104857600"])
volumes = st.fixed_dictionaries({"name": names, "emptyDir": st.just({})})
amounts = st.fixed_dictionaries({}, optional={"cpu": cpus, "memory": memories, "nvidia.com/gpu": st.just("1")})
some = st.fixed_dictionaries({}, optional={"requests": amounts, "limits": amounts})
guaranteed = st.builds(
    lambda cpu, memory: {"requests": {"cpu": cpu, "memory": memory}, "limits": {"cpu": cpu, "memory": memory}},
    cpus.filter(lambda cpu: cpu != "0"),
    memories.filter(lambda memory: memory != "0"),
)


def consistent(resources: dict[str, Any]) -> bool:
    """As the API server demands: no request above its limit."""
    limits = resources.get("limits", {})
    requests = resources.get("requests", {})
    return all(parse_quantity(requests[n]) <= parse_quantity(limits[n]) for n in requests if n in limits)


variables = st.fixed_dictionaries(
    {"name": st.sampled_from(["HOME", "PYTHONPATH", "EPOCHS", "PREHEAT_SHIM"])},
    optional={"value": st.sampled_from(["", "auto", "/code", "$(HOME)/x:/y"]), "valueFrom": st.just({"fieldRef": {}})},
)
paths = st.sampled_from(["/a", "/preheat", "/preheat/", "/preheat2", "//b/.././a/", "/preheat/x/../y"])
mounts = st.fixed_dictionaries({"name": names, "mountPath": paths})


def containers(resources: st.SearchStrategy[Any], **more: Any) -> st.SearchStrategy[Any]:
    lists = {
        "env": st.none() | st.lists(variables, max_size=4),
        "volumeMounts": st.none() | st.lists(mounts, max_size=2),
        "securityContext": st.sampled_from([{}, {"runAsUser": 0}, {"runAsUser": 7}, {"runAsNonRoot": True}]),
        **more,
    }
    required = {"name": names, "image": st.just("i"), "resources": resources.filter(consistent)}
    return st.fixed_dictionaries(required, optional=lists)


def pods(resources: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    init = containers(resources, restartPolicy=st.just("Always"))
    spec = st.fixed_dictionaries(
        {"containers": st.lists(containers(resources), min_size=1, max_size=4, unique_by=lambda c: c["name"])},
        optional={
            "initContainers": st.none() | st.lists(init, max_size=3),
            "volumes": st.none() | st.lists(volumes, max_size=2),
            "securityContext": st.sampled_from([{}, {"runAsUser": 0}, {"runAsUser": 1000}, {"fsGroup": 5}]),
            "hostNetwork": st.booleans(),
            "unknown/field~of the future": st.dictionaries(names, names),
        },
    )
    annotations = st.none() | st.dictionaries(st.sampled_from(["a/b", "c~d"]), names)
    metadata = st.fixed_dictionaries({"labels": st.just({})}, optional={"annotations": annotations})
    return st.fixed_dictionaries({"metadata": metadata, "spec": spec})


any_pod = pods(st.one_of(some, guaranteed, st.just({}))) | pods(guaranteed) | pods(st.just({}))
