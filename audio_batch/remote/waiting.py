"""Waiting in a thread for what fsspec's event loop does, without hanging for ever."""

from __future__ import annotations

import asyncio
import concurrent.futures
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")

PATIENCE_S = 60.0
"""A server that says nothing for so long is taken for gone."""

_LOOK_S = 0.5


def nothing() -> None:
    """For callers that never break off."""


def wait_for(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, _T],
    *,
    look: Callable[[], None] = nothing,
    patience_s: float = PATIENCE_S,
) -> _T:
    """Have the loop do `work`; any thread but the loop's own.

    Args:
        look: called every half second; may raise to break off.

    Raises:
        TimeoutError: it took longer than `patience_s`.
        Exception: whatever `work` or `look` raises.
    """
    future = asyncio.run_coroutine_threadsafe(work, loop)
    until_s = time.monotonic() + patience_s
    try:
        while True:
            try:
                return future.result(timeout=_LOOK_S)
            except concurrent.futures.TimeoutError:
                if future.done():
                    return future.result()
            look()
            if time.monotonic() > until_s:
                raise TimeoutError(f"no answer within {patience_s:.0f} s")
    except BaseException:
        future.cancel()
        raise
