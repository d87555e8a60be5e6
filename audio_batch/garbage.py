"""The cyclic garbage collector, kept from walking a large manifest again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Build many objects none of which is garbage, without a collection meanwhile.

    The collector's full passes grow with what is there: over 100,000 entries they take as long as
    reading them. What was built is left out of later passes too (`gc.freeze`): it is freed as
    always when nothing holds it any more, unless it is part of a cycle.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
        gc.freeze()
    finally:
        if was_enabled:
            gc.enable()
