"""How many threads of a process may be at work on its cores at once, whatever they do there."""

from __future__ import annotations

import threading
from types import TracebackType

_PATIENCE_S = 60.0
"""Whoever has waited so long goes in all the same: one that hangs inside must not stop the rest."""


class CpuGate:
    """A context manager for short pieces of work: decoding, VAD, features.

    A device's process has a thread for every asset in flight. Without a bound they would all decode
    at once and take the cores from the one that feeds the device. Whoever is inside may enter again
    without waiting. Inside, nobody waits for another thread.

    Args:
        permits: threads that may be inside at once; None lets everybody in.
    """

    def __init__(self, permits: int | None = None) -> None:
        self.permits = permits
        self._free = None if permits is None else threading.Semaphore(permits)
        self._inside = threading.local()

    def __enter__(self) -> CpuGate:
        depth = getattr(self._inside, "depth", 0)
        if depth == 0 and self._free is not None:
            self._inside.admitted = self._free.acquire(timeout=_PATIENCE_S)
        self._inside.depth = depth + 1
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._inside.depth -= 1
        if self._inside.depth == 0 and self._free is not None and self._inside.admitted:
            self._free.release()
