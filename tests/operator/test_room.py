"""How much room a bundle takes, and what would not give it."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from preheat_operator.quantity import parse_quantity
from preheat_operator.room import MARGIN, capacity, disk, evicting_limit, rooms, shortages, size_limit

GIB = 1 << 30
CLAIM = {"persistentVolumeClaim": {"claimName": "models"}}


@given(size=st.integers(1, 1 << 45), medium=st.sampled_from(["", "Memory"]))
def test_a_limit_is_never_too_small_and_never_far_too_large(size: int, medium: str) -> None:
    limit, copies = int(parse_quantity(size_limit(size, medium))), 1 if medium else 2
    assert copies * size + MARGIN <= limit <= copies * size + MARGIN + GIB


def said(
    volume: Any, size: int, memory: str | None = "128Mi", claim: int | None = None, disk: int | None = None
) -> list[str]:
    return shortages(rooms({"volume": volume}, memory, claim_bytes=claim, disk_bytes=disk), size)


@pytest.mark.parametrize(
    ("volume", "size", "says"),
    [
        ({"emptyDir": {"sizeLimit": "1Gi"}}, GIB, "a bundle takes 1.0 GiB and spec.volume.emptyDir.sizeLimit is 1Gi. "),
        ({"emptyDir": {"sizeLimit": 10}}, 7, "a bundle takes 7 B and spec.volume.emptyDir.sizeLimit is 10. Raise it"),
        ({"emptyDir": {"medium": "Memory"}}, 61 << 20, "in memory, of which the loader may use 128Mi. Raise spec.load"),
        (CLAIM, GIB, "a bundle takes 1.0 GiB and claim models holds 1.0 GiB. Give it more"),
    ],
)
def test_what_is_too_small_is_named_with_the_way_out(volume: Any, size: int, says: str) -> None:
    [warning] = said(volume, size, claim=GIB)
    assert says in warning


@pytest.mark.parametrize("volume", [None, {}, {"emptyDir": {}}, {"emptyDir": {"sizeLimit": "2Gi"}}, CLAIM])
def test_what_is_large_enough_or_not_known_is_not_warned_of(volume: Any) -> None:
    assert said(volume, GIB) == []
    assert said({"emptyDir": {"medium": "Memory"}}, GIB, memory=None) == []


def test_a_claim_holds_what_it_was_given_or_asks_for() -> None:
    asked = {"resources": {"requests": {"storage": "5Gi"}}}
    assert capacity({"spec": asked, "status": {"capacity": {"storage": "10Gi"}}}) == 10 * GIB
    assert capacity({"spec": asked, "status": {"phase": "Pending"}}) == 5 * GIB
    assert capacity({}) is None


@pytest.mark.parametrize("volume", [None, {}, {"emptyDir": {}}, {"emptyDir": {"sizeLimit": "9Gi"}}])
def test_a_disk_that_no_node_has_is_warned_of(volume: Any) -> None:
    [warning] = said(volume, GIB, disk=GIB)
    assert warning == (
        "a bundle takes 1.0 GiB and no node has more than 1.0 GiB of ephemeral storage. "
        "Name a claim in spec.volume, or add nodes with larger disks"
    )
    assert said(volume, GIB, disk=2 * GIB) == []


@pytest.mark.parametrize("volume", [CLAIM, {"emptyDir": {"medium": "Memory"}}])
def test_nodes_disks_are_no_matter_where_the_volume_is_elsewhere(volume: Any) -> None:
    assert said(volume, 1 << 20, disk=0) == []


@pytest.mark.parametrize(
    ("node", "size"),
    [
        ({"status": {"allocatable": {"ephemeral-storage": "47093746742"}}}, 47093746742),
        ({"status": {"allocatable": {"ephemeral-storage": "10Gi"}}, "spec": {}}, 10 * GIB),
        ({"status": {"allocatable": {"ephemeral-storage": "10Gi"}}, "spec": {"unschedulable": True}}, None),
        ({"status": {"allocatable": {"cpu": "1"}}}, None),
        ({"status": {"allocatable": {"ephemeral-storage": "0"}}}, None),
        ({}, None),
    ],
)
def test_a_node_has_what_it_leaves_to_pods(node: Any, size: int | None) -> None:
    assert disk(node) == size


def pod(apps: list[str | None], init: list[str | None] | None = None) -> dict[str, Any]:
    def container(limit: str | None) -> dict[str, Any]:
        return {"resources": {"limits": {"ephemeral-storage": limit}}} if limit else {}

    return {"containers": list(map(container, apps)), "initContainers": list(map(container, init or []))}


def test_a_pods_own_limit_of_ephemeral_storage_is_counted_as_the_kubelet_counts() -> None:
    assert evicting_limit(pod(["1Gi", None]), GIB) == GIB
    assert evicting_limit(pod(["1Gi", "1Gi"]), GIB) is None
    assert evicting_limit(pod(["1Gi"], ["3Gi"]), GIB) is None
    assert evicting_limit(pod([None]), GIB) is None
