"""The largest disk of the nodes, from a server in memory."""

from typing import Any

import pytest

from faults.fake_api import FakeApi, refusal
from preheat_operator.nodes import Nodes


def node(name: str, disk: str, **spec: Any) -> dict[str, Any]:
    status = {"allocatable": {"ephemeral-storage": disk}}
    return {"metadata": {"name": name, "namespace": ""}, "spec": spec, "status": status}


@pytest.fixture
def api() -> FakeApi:
    return FakeApi()


async def test_the_roomiest_node_counts_and_all_are_read_once_for_a_while(api: FakeApi) -> None:
    for each in (node("a", "10Gi"), node("b", "20Gi"), node("leaving", "1Ti", unschedulable=True)):
        api.put("Node", each)
    nodes = Nodes(api)  # type: ignore[arg-type]
    assert [await nodes.largest_disk(), await nodes.largest_disk()] == [20 << 30, 20 << 30]
    assert api.calls == [("list", "Node")]


async def test_without_nodes_or_without_the_right_to_see_them_nothing_is_known(api: FakeApi) -> None:
    assert await Nodes(api).largest_disk() is None  # type: ignore[arg-type]

    def refuse(*_: object) -> None:
        raise refusal(403, "Forbidden")

    api.fail = refuse
    nodes = Nodes(api)  # type: ignore[arg-type]
    assert [await nodes.largest_disk(), await nodes.largest_disk()] == [None, None]
    assert len(api.calls) == 2  # once each: who may not ask does not go on asking
