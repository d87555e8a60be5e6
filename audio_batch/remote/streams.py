"""A body that comes over fsspec's event loop, read by a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass

from audio_batch.remote.stores import Seen
from audio_batch.remote.waiting import wait_for

CHUNK_BYTES = 1 << 20
_GATHER_S = 1.0
"""A slow body is handed on once a second, so that it can be seen to move."""


@dataclass(frozen=True, slots=True)
class Streamed:
    """See `stores.Reading`. `read` gives at most so many bytes; none at the end."""

    seen: Seen
    start: int
    loop: asyncio.AbstractEventLoop
    read: Callable[[int], Awaitable[bytes]]

    def chunks(self, look: Callable[[], None]) -> Iterator[bytes]:
        """The bytes, as they come."""
        ended = False
        while not ended:
            data, ended, error = wait_for(self.loop, self._some(), look=look)
            if data:
                yield data
            if error is not None:
                raise error

    async def _some(self) -> tuple[bytes, bool, Exception | None]:
        """About a megabyte, whether that was the end, and what broke the body off after it."""
        loop = asyncio.get_running_loop()
        until_s = loop.time() + _GATHER_S
        parts: list[bytes] = []
        missing = CHUNK_BYTES
        while missing > 0:
            try:
                part = await self.read(missing)
            except Exception as error:
                return b"".join(parts), True, error
            if not part:
                return b"".join(parts), True, None
            parts.append(part)
            missing -= len(part)
            if loop.time() > until_s:
                break
        return b"".join(parts), False, None
