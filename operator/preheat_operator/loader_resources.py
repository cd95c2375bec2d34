"""What the loader may use, so that it changes neither where a pod is placed, nor its quota, nor its QoS class.

Kubernetes counts a pod as the larger of its init phase and its app phase: a loader that stays below the app containers
costs nothing. Amounts are processors and bytes; GPUs and other devices are never asked for.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Literal

from preheat_operator.quantity import parse_quantity, render_quantity

Kind = Literal["requests", "limits"]
QualityOfService = Literal["Guaranteed", "Burstable", "BestEffort"]
Object = Mapping[str, Any]

_COMPUTE = ("cpu", "memory")
_ZERO = Decimal(0)
#: Where everything that may be asked for is nothing, and a Guaranteed pod demands something.
_SMALL: Mapping[str, str] = {"cpu": "100m", "memory": "128Mi"}


def loader_resources(pod_spec: Object, wanted: Object) -> dict[str, dict[str, str]]:
    """`wanted` ({requests, limits}), lowered to what the pod's own containers use; empty in a BestEffort pod."""
    quality = quality_of_service(pod_spec)
    if quality == "BestEffort":
        return {}
    ceilings = {name: _ceiling(pod_spec, "limits", name) for name in _COMPUTE}
    limits = {name: _lowered(amount, ceilings[name]) for name, amount in wanted.get("limits", {}).items()}
    if quality == "Guaranteed":  # every container needs both, and requests that equal them
        limits = {name: limits.get(name) or render_quantity(ceilings[name] or _ZERO) for name in _COMPUTE}
        return {"requests": limits, "limits": dict(limits)}
    # A limit without a request would become the request.
    requests = {**dict.fromkeys(limits, "0"), **wanted.get("requests", {})}
    return {
        "requests": {
            name: _lowered(amount, _ceiling(pod_spec, "requests", name), _optional(limits.get(name)))
            for name, amount in requests.items()
        },
        "limits": limits,
    }


def sidecar_resources(pod_spec: Object, wanted: Object, exact: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """`wanted` for a container beside the pod's own, or `exact` where the pod is Guaranteed; empty: it needs none.

    The pod keeps its QoS class. A sidecar counts beside the others: what it requests, the pod requests more.
    """
    quality = quality_of_service(pod_spec)
    if quality == "BestEffort" or _has_amounts(pod_spec):  # of the latter it takes its share
        return {}
    if quality == "Guaranteed":
        return {"requests": dict(exact), "limits": dict(exact)}
    return {kind: dict(wanted[kind]) for kind in ("requests", "limits")}


def beside(amounts: Object) -> dict[str, dict[str, str]]:
    """Merged `amounts` for a container beside a pod's own: none requests what it is not allowed."""
    limits = {name: str(amount) for name, amount in amounts["limits"].items()}
    # A limit without a request would become the request.
    requests = {**dict.fromkeys(limits, "0"), **{name: str(amount) for name, amount in amounts["requests"].items()}}
    return {
        "requests": {name: _lowered(amount, _optional(limits.get(name))) for name, amount in requests.items()},
        "limits": limits,
    }


def exactly(amounts: Object) -> dict[str, str]:
    """Merged `amounts` as requests that are limits: processors as they are asked for, memory as it may be used."""
    requests, limits = amounts["requests"], amounts["limits"]
    preferred = {"cpu": (requests, limits), "memory": (limits, requests)}
    return {
        name: next((str(each[name]) for each in kinds if parse_quantity(each.get(name, 0))), _SMALL[name])
        for name, kinds in preferred.items()
    }


def merged(defaults: Object, chosen: Object | None) -> dict[str, dict[str, Any]]:
    """`defaults` with what a pipeline chose; a limit that it left open is never below the request that it chose."""
    chosen = chosen or {}
    requests = {**defaults.get("requests", {}), **(chosen.get("requests") or {})}
    limits = {**defaults.get("limits", {}), **(chosen.get("limits") or {})}
    for name in set(limits) & set(chosen.get("requests") or {}) - set(chosen.get("limits") or {}):
        limits[name] = max(limits[name], requests[name], key=parse_quantity)
    return {"requests": requests, "limits": limits}


def quality_of_service(pod_spec: Object) -> QualityOfService:
    """The QoS class that Kubernetes gives the pod."""
    holders = [pod_spec] if _has_amounts(pod_spec) else [*_init(pod_spec), *_apps(pod_spec)]
    amounts = [
        (_amount(holder, "requests", name), _amount(holder, "limits", name)) for holder in holders for name in _COMPUTE
    ]
    if not any(request or limit for request, limit in amounts):
        return "BestEffort"
    return "Guaranteed" if all(limit and request == limit for request, limit in amounts) else "Burstable"


def _ceiling(pod_spec: Object, kind: Kind, name: str) -> Decimal | None:
    """What the loader can use without raising what the pod counts for; None: the pod has no limit."""
    if name in ((pod_spec.get("resources") or {}).get(kind) or {}):
        return _amount(pod_spec, kind, name)
    apps = list(_apps(pod_spec))
    if kind == "limits" and any(not _amount(app, kind, name) for app in apps):
        return None
    beside, highest = _ZERO, _ZERO  # native sidecars, which run beside everything that starts after them
    for container in _init(pod_spec):
        amount = _amount(container, kind, name)
        highest = max(highest, beside + amount)
        if container.get("restartPolicy") == "Always":
            beside += amount
    return max(highest - beside, sum((_amount(app, kind, name) for app in apps), _ZERO))


def _lowered(wanted: str | int, *ceilings: Decimal | None) -> str:
    lowest = min((ceiling for ceiling in ceilings if ceiling is not None), default=None)
    return str(wanted) if lowest is None or parse_quantity(wanted) <= lowest else render_quantity(lowest)


def _optional(text: str | None) -> Decimal | None:
    return None if text is None else parse_quantity(text)


def _amount(holder: Object, kind: Kind, name: str) -> Decimal:
    resources = holder.get("resources") or {}
    amounts = resources.get(kind) or {}
    if kind == "requests" and name not in amounts:  # the API server fills in a missing request
        amounts = resources.get("limits") or {}
    return parse_quantity(amounts.get(name, 0))


def _has_amounts(pod_spec: Object) -> bool:
    """Whether the pod declares CPU or memory as a whole, which then decides instead of its containers."""
    return any(_amount(pod_spec, kind, name) for kind in ("requests", "limits") for name in _COMPUTE)


def _apps(pod_spec: Object) -> Iterable[Object]:
    return pod_spec.get("containers") or ()


def _init(pod_spec: Object) -> Iterable[Object]:
    return pod_spec.get("initContainers") or ()
