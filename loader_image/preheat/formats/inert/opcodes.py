"""What each opcode of protocols 0 to 5 does to the machine; extension codes and outside buffers are refused."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from typing import Any

from preheat.errors import TruncatedError, UnsupportedFormatError
from preheat.formats.inert.machine import Machine, refuse_code
from preheat.formats.inert.values import FROZENSET, SET, Global, Node, as_key

MAX_DIGITS = 4300  # of an integer: beyond it Python itself takes quadratic time

Opcode = Callable[[Machine], None]


def _push(value: Callable[[Machine], Any]) -> Opcode:
    def opcode(machine: Machine) -> None:
        machine.stack.append(value(machine))

    return opcode


def _integer(text: bytes) -> int:
    if len(text) > MAX_DIGITS:
        raise ValueError(f"an integer of {len(text)} digits")
    return int(text)


def _natural(text: bytes) -> int:
    number = _integer(text)
    if number < 0:
        raise ValueError("a negative position")
    return number


def _int_line(machine: Machine) -> int | bool:
    text = machine.line()
    return text == b"01" if text in (b"00", b"01") else _integer(text)


def _long(machine: Machine, width: int) -> int:
    length = machine.number(width)
    if length > 1024:
        raise ValueError(f"an integer of {length} bytes")
    return int.from_bytes(machine.take(length), "little", signed=True)


def _text(machine: Machine, width: int) -> str:
    return machine.take(machine.number(width)).decode("utf-8", "surrogatepass")


def _python2_text(content: bytes) -> str | bytes:
    try:
        return content.decode()
    except UnicodeDecodeError:
        return content


_ESCAPES = {b"\\": b"\\", b"'": b"'", b'"': b'"', b"n": b"\n", b"r": b"\r", b"t": b"\t"}


def _quoted(machine: Machine) -> str | bytes:
    text = machine.line()
    if len(text) < 2 or text[:1] != text[-1:] or text[:1] not in (b"'", b'"'):
        raise ValueError("a string without its quotes")
    return _python2_text(re.sub(rb"\\(x[0-9a-fA-F]{2}|.)", _unescape, text[1:-1]))


def _unescape(match: re.Match[bytes]) -> bytes:
    code = match[1]
    return bytes([int(code[1:], 16)]) if len(code) == 3 else _ESCAPES[code]


def _global_line(machine: Machine) -> Global:
    module = machine.line().decode()
    return machine.global_named(module, machine.line().decode())


def _stack_global(machine: Machine) -> None:
    name = machine.stack.pop()
    machine.stack[-1] = machine.global_named(machine.stack[-1], name)


def _get(machine: Machine, key: int) -> Any:
    return machine.memo[key]


def _put(key: Callable[[Machine], int]) -> Opcode:
    def opcode(machine: Machine) -> None:
        machine.remember(key(machine))

    return opcode


def _mark(machine: Machine) -> None:
    machine.marks.append(machine.stack)
    machine.stack = []


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.since_mark()


def _pop_mark(machine: Machine) -> None:
    machine.since_mark()


def _tuple_of(count: int) -> Opcode:
    def opcode(machine: Machine) -> None:
        if len(machine.stack) < count:
            raise IndexError("too few values for a tuple")
        machine.stack[-count:] = [tuple(machine.stack[-count:])]

    return opcode


def _since_mark(make: Callable[[list[Any]], Any]) -> Opcode:
    def opcode(machine: Machine) -> None:
        value = make(machine.since_mark())
        machine.stack.append(value)

    return opcode


def _dict_of(items: list[Any]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    _set_items(found, items)
    return found


def _set_items(target: Any, items: list[Any]) -> None:
    if len(items) % 2:
        raise ValueError("a key without its value")
    if isinstance(target, dict):
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[as_key(key)] = value
    elif isinstance(target, Node):
        target.set(zip(items[::2], items[1::2], strict=True))
    else:
        raise TypeError(f"a key is set on a {type(target).__name__}")


def _append(target: Any, items: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(items)
    elif isinstance(target, Node):
        target.append(items)
    else:
        raise TypeError(f"a value is appended to a {type(target).__name__}")


def _onto(change: Callable[[Any, list[Any]], None], count: int | None) -> Opcode:
    """An opcode that changes the container below its last `count` values, or below its last mark."""

    def opcode(machine: Machine) -> None:
        items = machine.since_mark() if count is None else [machine.stack.pop() for _ in range(count)][::-1]
        change(machine.stack[-1], items)

    return opcode


def _build(machine: Machine) -> None:
    state = machine.stack.pop()
    target = machine.stack[-1]
    if isinstance(target, Node):
        target.state = state
    elif not isinstance(target, dict):  # attributes of an OrderedDict, such as a state dict's _metadata, are left out
        raise TypeError(f"attributes are set on a {type(target).__name__}")


def _reduce(machine: Machine) -> None:
    args = machine.stack.pop()
    machine.stack[-1] = machine.call(machine.stack[-1], args)


def _new(machine: Machine) -> None:
    """NEWOBJ: to us a class is called like a function, and remembered as a class."""
    _reduce(machine)
    if isinstance(machine.stack[-1], Node):
        machine.stack[-1].new = True


def _new_with_keywords(machine: Machine) -> None:
    keywords, args, callee = machine.stack.pop(), machine.stack.pop(), machine.stack.pop()
    if not isinstance(callee, (Global, Node)) or not isinstance(args, tuple) or not isinstance(keywords, dict):
        raise TypeError("a class, a tuple and a dictionary are needed")
    if isinstance(callee, Global):
        refuse_code(callee)
    machine.stack.append(Node(callee, args, keywords))


def _object(machine: Machine) -> None:
    callee, *args = machine.since_mark()
    machine.stack.append(machine.call(callee, tuple(args)))


def _instance(machine: Machine) -> None:
    callee = _global_line(machine)
    args = machine.since_mark()
    machine.stack.append(machine.call(callee, tuple(args)))


def _protocol(machine: Machine) -> None:
    version = machine.number(1)
    if version > 5:
        raise UnsupportedFormatError(f"the pickle is of protocol {version}; 0 to 5 are known")


def _frame(machine: Machine) -> None:
    length = machine.number(8)
    if not machine.reaches(machine.at + length):
        raise TruncatedError(
            f"the pickle ends at byte {len(machine.data)}; its frame reaches to byte {machine.at + length}"
        )


def _refused(feature: str) -> Opcode:
    def opcode(machine: Machine) -> None:
        raise UnsupportedFormatError(f"the pickle uses {feature} at byte {machine.at - 1}; no checkpoint needs it")

    return opcode


def _unknown(machine: Machine) -> None:
    raise ValueError("no such opcode")


STOP = ord(".")
_BY_OPCODE: dict[bytes, Opcode] = {
    b"\x80": _protocol,
    b"\x95": _frame,
    b"(": _mark,
    b"0": _pop,
    b"1": _pop_mark,
    b"2": _push(lambda m: m.stack[-1]),
    b"N": _push(lambda m: None),
    b"\x88": _push(lambda m: True),
    b"\x89": _push(lambda m: False),
    b"I": _push(_int_line),
    b"J": _push(lambda m: int.from_bytes(m.take(4), "little", signed=True)),
    b"K": _push(lambda m: m.number(1)),
    b"M": _push(lambda m: m.number(2)),
    b"L": _push(lambda m: _integer(m.line().removesuffix(b"L"))),
    b"\x8a": _push(lambda m: _long(m, 1)),
    b"\x8b": _push(lambda m: _long(m, 4)),
    b"F": _push(lambda m: float(m.line())),
    b"G": _push(lambda m: struct.unpack(">d", m.take(8))[0]),
    b"S": _push(_quoted),
    b"T": _push(lambda m: _python2_text(m.take(m.number(4)))),
    b"U": _push(lambda m: _python2_text(m.take(m.number(1)))),
    b"V": _push(lambda m: m.line().decode("raw-unicode-escape")),
    b"X": _push(lambda m: _text(m, 4)),
    b"\x8c": _push(lambda m: _text(m, 1)),
    b"\x8d": _push(lambda m: _text(m, 8)),
    b"B": _push(lambda m: m.take(m.number(4))),
    b"C": _push(lambda m: m.take(m.number(1))),
    b"\x8e": _push(lambda m: m.take(m.number(8))),
    b"\x96": _push(lambda m: m.take(m.number(8))),
    b"]": _push(lambda m: []),
    b"}": _push(lambda m: {}),
    b")": _push(lambda m: ()),
    b"\x8f": _push(lambda m: Node(SET)),
    b"l": _since_mark(list),
    b"t": _since_mark(tuple),
    b"d": _since_mark(_dict_of),
    b"\x91": _since_mark(lambda items: Node(FROZENSET, items=items)),
    b"\x85": _tuple_of(1),
    b"\x86": _tuple_of(2),
    b"\x87": _tuple_of(3),
    b"a": _onto(_append, 1),
    b"e": _onto(_append, None),
    b"\x90": _onto(_append, None),
    b"s": _onto(_set_items, 2),
    b"u": _onto(_set_items, None),
    b"g": _push(lambda m: _get(m, _integer(m.line()))),
    b"h": _push(lambda m: _get(m, m.number(1))),
    b"j": _push(lambda m: _get(m, m.number(4))),
    b"p": _put(lambda m: _natural(m.line())),
    b"q": _put(lambda m: m.number(1)),
    b"r": _put(lambda m: m.number(4)),
    b"\x94": Machine.count,
    b"c": _push(_global_line),
    b"\x93": _stack_global,
    b"R": _reduce,
    b"\x81": _new,
    b"\x92": _new_with_keywords,
    b"b": _build,
    b"o": _object,
    b"i": _instance,
    b"P": _push(lambda m: m.persistent(m.line().decode())),
    b"Q": lambda m: m.stack.append(m.persistent(m.stack.pop())),
    b"\x82": _refused("an extension code (EXT1)"),
    b"\x83": _refused("an extension code (EXT2)"),
    b"\x84": _refused("an extension code (EXT4)"),
    b"\x97": _refused("an out-of-band buffer (NEXT_BUFFER)"),
    b"\x98": _refused("an out-of-band buffer (READONLY_BUFFER)"),
}
OPCODES = [_BY_OPCODE.get(bytes([code]), _unknown) for code in range(256)]
