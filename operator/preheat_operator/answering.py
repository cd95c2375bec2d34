"""Where the containers of a pod can be asked while they run, and what they have answered."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from preheat_operator.foreign import Object, mapping
from preheat_operator.loader_container import variable_in

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Question(Generic[Answer]):
    """What a kind of container is asked."""

    port: int
    path: Callable[[str], str]  # for a pod's uid
    read: Callable[[object], Answer | None]  # what a JSON document tells; None for what none tells
    limit: int  # bytes of an answer


@dataclass(frozen=True)
class Round(Generic[Answer]):
    """What those of one pipeline have answered, by their pods' uids."""

    time: str = ""  # RFC 3339, UTC
    answers: Mapping[str, Answer] = field(default_factory=dict)


def address_of(pod: Object, status: Object, container: Object, variable: str, port: int) -> str | None:
    """The pod's own IP address while a container runs and answers; a node's, or a special one, is nobody's.

    `status` is the container's, and `variable` is what tells it to answer at the port.
    """
    running = isinstance(mapping(status, "state").get("running"), Mapping)
    answers = variable_in(container, variable) == str(port)
    own = mapping(pod, "status").get("podIP")
    if not running or not answers or mapping(pod, "spec").get("hostNetwork"):
        return None
    return _usable(own) if own != mapping(pod, "status").get("hostIP") else None


def _usable(address: object) -> str | None:
    try:
        found = ipaddress.ip_address(address if isinstance(address, str) else "")
    except ValueError:
        return None
    special = found.is_loopback or found.is_link_local or found.is_multicast or found.is_unspecified
    mapped = isinstance(found, ipaddress.IPv6Address) and (found.ipv4_mapped or found.scope_id)
    return None if special or mapped else str(found)
