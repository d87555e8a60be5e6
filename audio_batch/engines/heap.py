"""How the C library keeps memory that is given back to it: kept at hand, on Linux with glibc.

On a CPU CTranslate2 allocates large buffers anew for every layer. By default glibc takes each of
them from the system and gives it back: nearly half of the encoder's time went into pages that the
kernel cleared again and again (85 of 190 ms a window with the demo model).
"""

from __future__ import annotations

import ctypes
import os

_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
"""Of glibc's malloc.h, see mallopt(3)."""

_KEPT_BYTES = 512 * 1024**2
"""What is free at the end of the heap beyond this goes back to the system; what is free between
things in use does when `give_back` is called."""

_kept = False


def keep_freed_memory() -> bool:
    """Have the C library reuse large buffers; whether it does.

    One heap for all threads, from which large buffers come too. Nothing is changed where another C
    library is in use, or where the user has settings of his own for this one.
    """
    if any(name.startswith("MALLOC_") for name in os.environ) or "GLIBC_TUNABLES" in os.environ:
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = ((_M_ARENA_MAX, 1), (_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, _KEPT_BYTES))
    done = [mallopt(setting, value) == 1 for setting, value in settings]
    global _kept
    _kept = all(done)
    return _kept


def give_back() -> None:
    """Return to the system what is free, where it is kept: after a recording of hours."""
    if _kept:
        ctypes.CDLL(None).malloc_trim(0)
