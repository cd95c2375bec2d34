"""The JSON patch between two documents of which the second was made from the first by adding to it."""

from __future__ import annotations

from typing import Any

Operation = dict[str, Any]


def json_patch(before: Any, after: Any, path: str = "") -> list[Operation]:
    """Operations (RFC 6902) that turn `before` into `after`; what is equal in both is not mentioned."""
    if before is after or (type(before) is type(after) and before == after):
        return []
    if isinstance(before, dict) and isinstance(after, dict):
        return _object_patch(before, after, path)
    if isinstance(before, list) and isinstance(after, list):
        return _list_patch(before, after, path)
    return [_replaced(path, after)]


def _object_patch(before: dict[str, Any], after: dict[str, Any], path: str) -> list[Operation]:
    operations: list[Operation] = [
        {"op": "remove", "path": f"{path}/{_escaped(key)}"} for key in before if key not in after
    ]
    for key, value in after.items():
        where = f"{path}/{_escaped(key)}"
        if key in before:
            operations += json_patch(before[key], value, where)
        else:
            operations.append({"op": "add", "path": where, "value": value})
    return operations


def _list_patch(before: list[Any], after: list[Any], path: str) -> list[Operation]:
    added = len(after) - len(before)
    if added == 0:
        pairs = enumerate(zip(before, after, strict=True))
        return [operation for i, (old, new) in pairs for operation in json_patch(old, new, f"{path}/{i}")]
    if added > 0 and after[:-added] == before:
        return [{"op": "add", "path": f"{path}/-", "value": value} for value in after[-added:]]
    if added > 0 and after[added:] == before:
        return [{"op": "add", "path": f"{path}/{i}", "value": value} for i, value in enumerate(after[:added])]
    return [_replaced(path, after)]


def _replaced(path: str, value: Any) -> Operation:
    return {"op": "replace", "path": path, "value": value}


def _escaped(key: str) -> str:
    return key.replace("~", "~0").replace("/", "~1")
