"""Keeps Python's garbage collector from searching a whole model again and again while it is being loaded.

Loading makes objects by the ten thousand and no cycles among them; with many tensors a quarter of its time went there.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_paused() -> Iterator[None]:
    """No garbage is collected in this block; afterwards it is as before."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
