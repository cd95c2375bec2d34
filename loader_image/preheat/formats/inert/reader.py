"""Reads pickles of every protocol without importing or calling anything that they name.

Each opcode is carried out on inert values (`formats.inert.values`). A global is a name; a call of it is a `Node`,
unless the name stands in the table of constructors that the caller passes in, whose functions are Preheat's own. There
is no list of allowed names to get around: nothing named by the file is ever looked up.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from preheat.errors import CheckpointError, CheckpointLoadError
from preheat.formats.inert.machine import Constructors, Machine, More, Pickle
from preheat.formats.inert.opcodes import OPCODES, STOP
from preheat.formats.inert.values import Global, as_key

MAX_BYTES = 256 << 20
MAX_OPCODES = 4_000_000  # about 80,000 tensors; callers that know of more allow more


def read_pickle(
    data: bytes,
    constructors: Constructors,
    persistent: Callable[[Any], Any],
    *,
    max_opcodes: int = MAX_OPCODES,
    start: int = 0,
    more: More | None = None,
) -> Pickle:
    """The pickle that begins at byte `start` of `data`, which may be its beginning only where `more` is given.

    Raises a CheckpointLoadError that names the byte where it makes no sense.
    """
    if len(data) > MAX_BYTES:
        raise CheckpointLoadError(f"the pickle has {len(data)} bytes; {MAX_BYTES} are allowed")
    machine = Machine(data, {**PLAIN_VALUES, **constructors}, persistent, start, more)
    opcode_at = 0
    try:
        for _ in range(max_opcodes):
            opcode_at = machine.at
            if opcode_at >= len(machine.data):
                machine.take(1)  # fetches it, or says what is missing
            machine.at = opcode_at + 1
            opcode = machine.data[opcode_at]
            if opcode == STOP:
                return machine.finish()
            OPCODES[opcode](machine)
    except CheckpointError:
        raise
    except (IndexError, KeyError, ValueError, TypeError, OverflowError, struct.error) as error:
        code = machine.data[opcode_at : opcode_at + 1]
        raise CheckpointLoadError(
            f"the pickle makes no sense at byte {opcode_at} (opcode {code!r}): {type(error).__name__} {error}"
        ) from error
    raise CheckpointLoadError(f"the pickle has more than {max_opcodes} opcodes")


def _ordered_dict(items: Any = None) -> dict[Any, Any]:
    """Python 2 gives the items in a list, which is taken: a pickle that repeats the call pays for each item again."""
    if items is None:
        return {}
    if not isinstance(items, list) or not all(isinstance(item, list) and len(item) == 2 for item in items):
        raise TypeError("an ordered dictionary of something else than pairs")
    found = {as_key(key): value for key, value in items}
    items[:] = [None]  # no pair: taken
    return found


def _complex(real: float, imaginary: float) -> complex:
    if not isinstance(real, (int, float)) or not isinstance(imaginary, (int, float)):
        raise TypeError("a complex number of something else")
    return complex(real, imaginary)


PLAIN_VALUES: Constructors = {
    Global("collections", "OrderedDict"): _ordered_dict,
    Global("builtins", "complex"): _complex,
}
