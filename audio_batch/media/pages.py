"""Room for samples that the operating system gets back at once, whatever the C library keeps.

On a CPU the C library is told to keep what is freed (see `engines.heap`): blocks of a recording
that are freed while it is put together would stay beside it, and it would be held twice.
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_SAMPLE_BYTES = np.dtype(np.float32).itemsize


def zeros(count: int) -> NDArray[np.float32]:
    """So many zeros, in pages of their own that end with the last array that shows them.

    What has not been written takes no memory.

    Raises:
        MemoryError: there is no room for as many.
    """
    if count == 0:
        return np.zeros(0, np.float32)
    size = count * _SAMPLE_BYTES
    try:
        pages = mmap.mmap(-1, size, **_PRIVATE)
    except (OSError, OverflowError) as error:
        raise MemoryError(f"{size} bytes of samples") from error
    return np.frombuffer(pages, np.float32)


_PRIVATE: dict[str, int] = {}
"""Elsewhere than on Windows pages are shared with children unless one says otherwise."""
if hasattr(mmap, "MAP_PRIVATE"):
    _PRIVATE["flags"] = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
